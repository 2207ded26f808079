r"""The simulated upstream: the outbound-bot API over real HTTP, with scripted calls and faults on demand.

It rings nobody. Start it with ``python -m simulator --port 9015`` (or ``callwatch simulate --port 9015``) and talk to
it as to the real one::

    curl -X POST localhost:9015/api/v1/outbound-bot/call-v2 -H 'Content-Type: application/json' \
         -d '{"caseId": "C1", "mediationId": "17", "callAuto": 0, "callPersonId": ""}'
    curl 'localhost:9015/api/v1/outbound-bot/status?caseRef=C1&jobId=…'
    curl 'localhost:9015/api/v1/outbound-bot/conversation-log?caseId=C1'

Unless scripted, a case has two parties, ``P-<case>-1`` and ``P-<case>-2``, and each call lives the life ``normal``.
A status query for a call that is not known answers ``data: null``.

Everything is steered over the same port, in JSON. Bad input is answered 400 with ``{"error": "field: what is wrong"}``.

``GET /_sim``
    What is set, how much has happened, and the names of all lives and faults.
``POST /_sim/script`` ``{"case_id", "life"?, "dial_delay"?, "parties"?}``
    How the next calls of a case go; ``case_id`` ``"*"`` is every case without a script of its own. A life is one of the
    names below or ``[["Scheduling", 0], ["Executing", 3], ["Succeeded", 9]]`` (status, seconds after creation).
    ``dial_delay``: seconds from one record to the next within one call-v2; the answer comes after the last.
    A party is ``{"person_id", "person_type"?, "life"?, "error_code"?, "message"?, "start_time"?, "call_interval"?,
    "rings"?, "record"?, "drop"?}``: an ``error_code`` other than 0 refuses it (1001 must wait, 1002 limit reached), and
    the fields of its record are null beside what is named here. ``rings`` says whether a call is made all the same
    (default: if error_code is 0), so ``"rings": false`` is an errorCode 0 without a jobId, and ``"drop": ["jobId"]`` a
    call whose jobId is not told. ``record`` replaces fields of the answer, ``drop`` leaves fields out, both in
    upstream's spelling.
``POST /_sim/faults`` ``{"kind", "endpoint"?, "count"?, "case_id"?, "job_id"?, "processed"?, …}`` → ``{"id"}``
    Misbehave for the next ``count`` requests (absent: until cleared) to ``call-v2``, ``status``, ``conversation-log``
    or ``*`` (the default). Of several faults that fit a request, the one set first is used, so a sequence is set in its
    order. ``processed`` says whether the request takes effect (calls are made) before the fault shows. Kinds:

    - ``status`` (``status``, ``headers``?): that HTTP status, e.g. 429 with ``{"Retry-After": "30"}``; not processed
    - ``hang``: accepted, never answered; not processed (``"processed": true``: the phone rings, no answer ever comes)
    - ``reset``: connection reset (RST) once the request is read; not processed (``"processed": true``: after it was)
    - ``drip_header``, ``drip_body`` (``seconds``): one byte every so often, from the first header or from the body on
    - ``delay`` (``seconds``): a good answer, late (``"processed": false``: takes effect late, too)
    - ``garbage``: 200, and a body that is no JSON
    - ``wrong_envelope`` (``code``? = 500, ``message``?): HTTP is fine, the inner code is not
    - ``null_data``, ``wrong_data``: data null; data an object where a list belongs and the reverse
    - ``other_job``: another job's id in the answer (and, for a status, the end of that other job)
    - ``huge`` (``chunked``?): a good answer of more than 5 MiB; chunked: without a Content-Length
``GET /_sim/faults``, ``DELETE /_sim/faults[?id=N]``
    The faults that stand and what is left of their counts; clear one or all. What hangs already goes on hanging.
``POST /_sim/outage`` ``{"seconds"}``
    Close the port and every connection, then come back: refused connections, while the calls live on.
``POST /_sim/settings`` ``{"speed"?, "dial_delay"?}``
    Speed is the factor at which all lives pass, from now on; dial_delay stays in real seconds.
``GET /_sim/calls[?case_id=…]``, ``POST /_sim/end`` ``{"job_id", "status"?}``
    Every call made, oldest first; end one now (default ``Succeeded``).
``GET /_sim/requests``, ``POST /_sim/reset``
    The request log (the latest 20,000; ``--log FILE`` has all of them); forget calls, scripts, faults and requests.

Lives: ``normal``, ``failed``, ``cancelled``, ``endless`` (Scheduling for ever), ``talking`` (Executing for ever),
``paused`` and ``drafted`` (both for ever), ``blink`` (Succeeded without ever being seen Executing), ``unknown`` (a
status nobody has heard of).
"""
