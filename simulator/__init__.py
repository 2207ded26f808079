r"""The simulated upstream: the outbound-bot API over real HTTP, with scripted calls and faults on demand.

No phone rings. Start it with ``callwatch simulate --port 9015`` and use it like the real one::

    curl -X POST localhost:9015/api/v1/outbound-bot/call-v2 -H 'Content-Type: application/json' \
         -d '{"caseId": "C1", "mediationId": "17", "callAuto": 0, "callPersonId": ""}'
    curl 'localhost:9015/api/v1/outbound-bot/status?caseRef=C1&jobId=…'
    curl 'localhost:9015/api/v1/outbound-bot/conversation-log?caseId=C1'

Unless scripted, a case has two parties, ``P-<case>-1`` and ``P-<case>-2``, and each call lives the life ``normal``.
A status query for an unknown call answers ``data: null``.

The same port controls it, in JSON. Invalid input is answered with 400 and ``{"error": "field: fault"}``.

``GET /_sim``
    The current settings, the numbers of calls and requests, and the names of all lives and faults.
``POST /_sim/script`` ``{"case_id", "life"?, "dial_delay"?, "parties"?}``
    The script of the next calls of a case; ``case_id`` ``"*"`` is every case without its own script. A life is one of
    the names below or ``[["Scheduling", 0], ["Executing", 3], ["Succeeded", 9]]`` (status, seconds after creation).
    ``dial_delay``: seconds from one record to the next within one call-v2; the answer follows the last.
    A party is ``{"person_id", "person_type"?, "life"?, "error_code"?, "message"?, "start_time"?, "call_interval"?,
    "rings"?, "record"?, "drop"?}``: an ``error_code`` other than 0 refuses it (1001 must wait, 1002 limit reached), and
    the other fields of its record are null. ``rings`` decides whether a call is made (default: if error_code is 0), so
    ``"rings": false`` is an errorCode 0 without a jobId, and ``"drop": ["jobId"]`` a call without a jobId in the
    answer. ``record`` replaces fields of the answer, ``drop`` omits fields, both with upstream's names.
``POST /_sim/faults`` ``{"kind", "endpoint"?, "count"?, "case_id"?, "job_id"?, "processed"?, …}`` → ``{"id"}``
    Misbehave for the next ``count`` requests (absent: until cleared) to ``call-v2``, ``status``, ``conversation-log``
    or ``*`` (the default). Of several faults that match a request, the one set first applies, so a sequence is set in
    its order. ``processed``: whether the request takes effect (calls are made) before the fault. Kinds:

    - ``status`` (``status``, ``headers``?): that HTTP status, e.g. 429 with ``{"Retry-After": "30"}``; not processed
    - ``hang``: accepted, never answered; not processed (``"processed": true``: the phone rings, without an answer)
    - ``reset``: connection reset (RST) after the request is read; not processed (``"processed": true``: first)
    - ``drip_header``, ``drip_body`` (``seconds``): one byte per interval, from the first header or from the body on
    - ``delay`` (``seconds``): a valid answer, late (``"processed": false``: takes effect late, too)
    - ``garbage``: 200, and a body that is not JSON
    - ``wrong_envelope`` (``code``? = 500, ``message``?): HTTP 200 with an inner error code
    - ``null_data``, ``wrong_data``: data null; an object instead of a list and the reverse
    - ``other_job``: the id of another job in the answer (and, for a status, the end of that job)
    - ``huge`` (``chunked``?): a valid answer of more than 5 MiB; chunked: without a Content-Length
``GET /_sim/faults``, ``DELETE /_sim/faults[?id=N]``
    The active faults with their remaining counts; clear one or all. Requests that hang already continue to hang.
``POST /_sim/outage`` ``{"seconds"}``
    Close the port and every connection, then listen again: connections are refused, the calls continue.
``POST /_sim/settings`` ``{"speed"?, "dial_delay"?}``
    Speed is the factor by which all lives run faster, from now on; dial_delay stays in real seconds.
``GET /_sim/calls[?case_id=…]``, ``POST /_sim/end`` ``{"job_id", "status"?}``
    All calls, oldest first; end one now (default ``Succeeded``).
``GET /_sim/requests``, ``POST /_sim/reset``
    The request log (the latest 20,000; ``--log FILE`` has all of them); forget calls, scripts, faults and requests.

Lives: ``normal``, ``failed``, ``cancelled``, ``endless`` (Scheduling for ever), ``talking`` (Executing for ever),
``paused`` and ``drafted`` (both for ever), ``blink`` (Succeeded without being Executing), ``unknown`` (a status that is
not in the API).
"""
