"""Remove phone numbers, names, transcripts, signed links and credentials from texts and values (S37). Pure."""

import math
import re
from collections.abc import Collection, Mapping
from functools import lru_cache
from typing import Any

MARK = "***"
"""The text that replaces each removed part."""

_LONG_PERSON_ID, _SHORT_PERSON_ID = 8, 3
_MAX_DEPTH, _MAX_PASSES = 12, 4

_SENSITIVE_KEYS = (
    r"phone_?(?:number|no)?|mobile|tel(?:ephone)?|(?:party_?|full_?|real_?|display_?)?name|conversations?|script"
    r"|record_?url|authorization|(?:api_?|access_?)?token|pass(?:word|wd)|secret|id_?card"
)
_PERSON_KEYS = r"(?:call_?)?person_?id"
_SENSITIVE_KEY = re.compile(_SENSITIVE_KEYS, re.IGNORECASE)
_SENSITIVE_NAME = re.compile(rf"(?:{_SENSITIVE_KEYS})(?:=|%)", re.IGNORECASE)
_PERSON_KEY = re.compile(_PERSON_KEYS, re.IGNORECASE)

_IN_ID = r"A-Za-z0-9_-"
_ID_STARTS = rf"(?<![{_IN_ID}])(?<![A-Za-z0-9]\.)"
_ID_ENDS = rf"(?![{_IN_ID}]|\.[A-Za-z0-9])"

# Never redacted: a jobId begins like a phone number, and a UUID may contain one by chance.
_ID = (
    r"(?<![0-9a-f])(?:\d{13}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}|[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})"
    r"(?![0-9a-f])"
)

# A URL ends at a blank, a quote or a full-width mark; a query may contain raw Chinese characters.
_URL_END = r"""\s'"<>\\`，。；、（）《》「」【】"""
_SLASHES = r"(?::|%(?:25)*3a)(?:/|%(?:25)*2f){2}"
_USERINFO = (
    rf"(?P<slashes>{_SLASHES})[^{_URL_END}?#]{{0,500}}(?P<at>@|%(?:25)*40)"  # greedy: a password may contain an @
)
_NAME_AND_EQUALS = r"[a-z_][\w.\[\]-]{0,63}(?:=|%(?:25)*3d)"
_QUERY = rf"(?P<question>\?|%(?:25)*3f)(?P<parameters>(?={_NAME_AND_EQUALS})[^{_URL_END}]+)"
_QUERY_OF_URL = re.compile(rf"({_SLASHES}[^{_URL_END}?]{{0,500}}\?)([^{_URL_END}]+)", re.IGNORECASE)
_SEPARATOR = re.compile(r"(&amp;|&|%(?:25)*26)", re.IGNORECASE)
_PARAMETER = re.compile(rf"({_NAME_AND_EQUALS})(.*)", re.IGNORECASE | re.ASCII | re.DOTALL)

_CREDENTIAL = (
    r"(?P<before>(?<![a-z])(?:authorization[\"']?\s*[:=]\s*[\"']?(?:(?:bearer|basic|token)\s+)?|bearer\s+))"
    r"[^\s'\",;<>]+"
)

# A pair inside a JSON text or a repr, also with escaped quotes (\"script\": \"…\") or cut off: a value without an end
# is removed up to the end of the text.
_KEYS = rf"(?:{_SENSITIVE_KEYS}|(?P<person>{_PERSON_KEYS}))"
_PAIR = (
    rf"(?P<key>(?P<key_quote>\\{{0,7}}[\"'])(?:{_KEYS})(?P=key_quote)\s*:\s*"
    rf"|(?<![a-z_])(?:{_SENSITIVE_KEYS}|(?P<named_person>{_PERSON_KEYS}))=(?=[\"']))"
    r"(?:(?P<quote>\\{0,7}[\"'])(?P<value>.*?)(?:(?<!\\)(?P=quote)|\Z)|[\[{].*|[^\s,}\]\"']+)"
)

_HYPHEN = r"\-\u2010-\u2015\uff0d"
_GAP = rf"[ \t\xa0\u3000{_HYPHEN}]"
_DOT = r"[.\xb7\u2022\uff0e/]"
_AREA = r"(?:10|[2-9]\d{1,2})"
# A number does not follow a digit, nor a digit with a point, which would make it a fraction.
_NUMBER = r"(?<!\d)(?<!\d\.)"
_LANDLINE = (
    rf"{_NUMBER}(?:(?:\+|00)86\)?{_GAP}{{0,2}}0?{_AREA}{_GAP}?|\(?0{_AREA}(?:\){_GAP}?|[{_HYPHEN}]|{_DOT})"
    rf"|0(?:10|2\d|[3-9]\d{{2}}){_GAP}?)\d{{3,4}}(?:{_GAP}|{_DOT})?\d{{4}}(?!\d)"
)
_MOBILE = (
    rf"(?<!\d)(?:(?:\+|00)?86\)?{_GAP}{{0,2}})?[1\uff11][3-9\uff13-\uff19]\d"
    rf"(?:{_GAP}{{0,3}}\d{{4}}{_GAP}{{0,3}}\d{{4}}|{_DOT}\d{{4}}{_DOT}\d{{4}}|{_GAP}\d{{3}}{_GAP}\d{{5}}"
    rf"|\d{_GAP}\d{{3}}{_GAP}\d{{4}})(?!\d)"
)
_ABROAD = (  # ends before a jobId that follows
    rf"(?<!\d)(?:\+(?!0)|00(?=85[23]|886))(?:[ \t\xa0().{_HYPHEN}]{{0,2}}(?!{_ID})\d){{8,15}}(?!\d)"
)
# The number of an ID card contains a birthday. Numbers of fifteen digits are out of use since 2013.
_DAY = r"(?:18|19|20)\d{2}(?:0[1-9]|1[0-2])(?:0[1-9]|[12]\d|3[01])"
_ID_CARD = rf"(?<!\d)[1-9]\d{{5}}{_GAP}?{_DAY}{_GAP}?\d{{3}}[\dx](?!\d)"

# A label and the text after it, up to a blank or a mark: a name, an address, a number of any form.
_LABELS = r"姓名|名字|联系人|当事人|申请人|机主|户主|收件人|(?:身份证|证件|护照|电话|手机|联系方式|住址|地址)(?:号码?)?"
_LABELLED = (
    rf"(?P<label>(?=[姓名联当申机户收身证护电手住地])(?:{_LABELS})[ \t]{{0,3}}(?:[:：=＝]|是|为)[ \t]{{0,3}})"
    r"[^\s,，。;；、()（）《》<>\"'“”\[\]{}:：|?&#]{1,40}"
)

# The look-aheads change no match; they make the redaction of a log line three times faster.
_PHONE = rf"(?=[\d(+])(?P<phone>{_ID_CARD}|{_LANDLINE}|{_MOBILE}|{_ABROAD})"
_UNTOUCHED = rf"(?=[\da-f])(?P<untouched>{_ID})"
_ADDRESS = rf"(?=[:?%])(?:(?P<userinfo>{_USERINFO})|(?P<query>{_QUERY}))"
_EVERYTHING = rf"{_UNTOUCHED}|{_ADDRESS}|(?P<pair>{_PAIR})|(?=[ab])(?P<credential>{_CREDENTIAL})|{_PHONE}|{_LABELLED}"
_ONLY_PHONES = rf"{_UNTOUCHED}|{_PHONE}"
_FLAGS = re.IGNORECASE | re.DOTALL
_HINTS = re.compile(rf"[?%@\"']|bearer|authorization|{_LABELS}", re.IGNORECASE)
_WHOLE_ID = re.compile(_ID, re.IGNORECASE)


def mask_person(person_id: str | None) -> str:
    """Return `***` and the last four characters of a person id, the last one of a short id, none of a tiny one."""
    if not person_id:
        return MARK
    if person_id.startswith(MARK) and len(person_id) < _LONG_PERSON_ID:
        return person_id  # already masked
    if len(person_id) >= _LONG_PERSON_ID:
        return MARK + person_id[-4:]
    return MARK + person_id[-1] if len(person_id) >= _SHORT_PERSON_ID else MARK


def redact(text: str, *, keep: Collection[str] = ()) -> str:
    """Return the text without phone numbers, credentials, and the userinfo and query values of URLs.

    `keep` holds ids: each stays where it is a whole token, even if it looks like a phone number. JobIds of the usual
    form and UUIDs always stay. A second redaction changes nothing.
    """
    # An id that no pattern matches needs no protection, and must not protect "138" in "138 0000 1111".
    endangered = frozenset(value for value in keep if value and _is_redacted(value))
    return _redact(text, keep, endangered, _MAX_PASSES)


def redact_value(value: object) -> object:
    """Return the value in a form that JSON can represent, redacted at every depth; never raises.

    Values of sensitive keys become `***`, person ids are masked, other objects become their redacted repr.
    """
    return _redact_value(value, (), _MAX_DEPTH)


def redact_fields(fields: Mapping[str, object], keep: Collection[str] = ()) -> dict[str, object]:
    """Return the redacted fields of a log line, as `redact_value` does."""
    return _redact_fields(fields, keep, _MAX_DEPTH)


def _redact_fields(fields: Mapping[Any, object], keep: Collection[str], depth: int) -> dict[str, object]:
    return {
        redact(key if isinstance(key, str) else safe_repr(key), keep=keep): _redact_entry(key, value, keep, depth)
        for key, value in fields.items()
    }


def _redact_value(value: object, keep: Collection[str], depth: int) -> object:
    match value:
        case None | bool():
            return value
        case str():
            return redact(value, keep=keep)
        case int() | float():
            return _redact_number(value, keep)
        case Mapping() if depth:
            return _redact_fields(value, keep, depth)
        case list() | tuple() | set() | frozenset() if depth:
            return [_redact_value(item, keep, depth - 1) for item in value]
        case _:
            return redact(safe_repr(value), keep=keep)


def _redact_entry(key: object, value: object, keep: Collection[str], depth: int) -> object:
    if isinstance(key, str) and value is not None:
        name = key.replace("-", "_")
        if _SENSITIVE_KEY.fullmatch(name):
            return MARK
        if _PERSON_KEY.fullmatch(name):
            return mask_person(str(value))
    return _redact_value(value, keep, depth - 1)


def _redact_number(value: float, keep: Collection[str]) -> object:
    text = safe_repr(value)
    if isinstance(value, float):
        return value if math.isfinite(value) else text  # JSON has no NaN
    redacted = redact(text, keep=keep)
    return value if redacted == text else redacted


def safe_repr(value: object) -> str:
    """Return the repr, or a substitute if it raises. Not redacted."""
    try:
        return repr(value)
    except Exception as error:  # noqa: BLE001  a broken repr must not lose the log line
        return f"<{type(value).__name__} whose repr raises {type(error).__name__}>"


def _redact(text: str, keep: Collection[str], endangered: frozenset[str], passes: int) -> str:
    redacted = _redact_once(text, keep, endangered)
    if redacted == text or not passes:
        return redacted
    return _redact(redacted, keep, endangered, passes - 1)  # removed blanks may have split an address


def _redact_once(text: str, keep: Collection[str], endangered: frozenset[str]) -> str:
    if "://" in text:  # after a scheme, any text behind the question mark is a query
        text = _QUERY_OF_URL.sub(lambda match: match[1] + _redact_query(match[2], keep), text)
    pattern = _pattern(endangered, only_phones=not _HINTS.search(text))
    return pattern.sub(lambda match: _replacement(match, keep), text)


@lru_cache(maxsize=64)
def _pattern(endangered: frozenset[str], *, only_phones: bool) -> re.Pattern[str]:
    pattern = _ONLY_PHONES if only_phones else _EVERYTHING
    if endangered:
        kept = "|".join(map(re.escape, sorted(endangered, key=len, reverse=True)))
        pattern = rf"(?P<kept>{_ID_STARTS}(?-i:{kept}){_ID_ENDS})|{pattern}"
    return re.compile(pattern, _FLAGS)


@lru_cache(maxsize=4096)
def _is_redacted(value: str) -> bool:
    return redact(value) != value


def _replacement(match: re.Match[str], keep: Collection[str]) -> str:
    match match.lastgroup:
        case "untouched" | "kept":
            return match[0]
        case "userinfo" | "query":
            return _redact_address(match, keep)
        case "credential":
            return match["before"] + MARK
        case "pair":
            quote = match["quote"] or ""
            is_person = match["person"] or match["named_person"]
            return match["key"] + quote + (mask_person(match["value"]) if is_person else MARK) + quote
        case "label":
            value = match[0].removeprefix(match["label"])
            return match["label"] + (value if _is_id(value, keep) else MARK)
        case _:
            return MARK


def _redact_address(match: re.Match[str], keep: Collection[str]) -> str:
    if match.lastgroup == "userinfo":
        return match["slashes"] + MARK + match["at"]
    return match["question"] + _redact_query(match["parameters"], keep)


def _is_id(value: str, keep: Collection[str]) -> bool:
    return value in keep or _WHOLE_ID.fullmatch(value) is not None


def _redact_query(query: str, keep: Collection[str]) -> str:
    """Keep the names of the parameters, and the values that are ids to keep."""
    pieces = _SEPARATOR.split(query)
    pieces[::2] = [_redact_parameter(piece, keep) for piece in pieces[::2]]
    return "".join(pieces)


def _redact_parameter(piece: str, keep: Collection[str]) -> str:
    parameter = _PARAMETER.fullmatch(piece)
    if not parameter:
        return MARK
    name, value = parameter.groups()
    is_id = _is_id(value, keep) and not _SENSITIVE_NAME.match(name)
    return name + (value if is_id else MARK)
