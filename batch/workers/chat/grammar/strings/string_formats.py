"""JSON Schema's formats of strings as regular expressions, each for the whole string."""

from __future__ import annotations

_DAY = (
    r"(?:(?:0[13578]|1[02])-(?:0[1-9]|[12]\d|3[01])|(?:0[469]|11)-(?:0[1-9]|[12]\d|30)|02-(?:0[1-9]|1\d|2[0-8]))"  # of any year
)
_LEAP_YEAR = r"(?:\d\d(?:0[48]|[2468][048]|[13579][26])|(?:0[48]|[2468][048]|[13579][26])00)"
_DATE = rf"(?:(?!0000)\d{{4}}-{_DAY}|{_LEAP_YEAR}-02-29)"
_CLOCK = r"(?:[01]\d|2[0-3]):[0-5]\d"
_TIME = rf"{_CLOCK}:[0-5]\d(?:\.\d{{1,9}})?(?:[Zz]|[+-]{_CLOCK})"
_TIME_PARTS = r"(?:\d+H(?:\d+M(?:\d+S)?)?|\d+M(?:\d+S)?|\d+S)"
_DATE_PARTS = r"(?:\d+Y(?:\d+M(?:\d+D)?)?|\d+M(?:\d+D)?|\d+D)"

_OCTET = r"(?:25[0-5]|2[0-4]\d|1\d\d|[1-9]?\d)"
_IPV4 = rf"(?:{_OCTET}\.){{3}}{_OCTET}"
_GROUP = "[0-9A-Fa-f]{1,4}"
_LAST = rf"(?:{_GROUP}:{_GROUP}|{_IPV4})"
_IPV6 = "|".join(
    [
        rf"(?:{_GROUP}:){{6}}{_LAST}",
        rf"::(?:{_GROUP}:){{5}}{_LAST}",
        *(rf"(?:(?:{_GROUP}:){{0,{n}}}{_GROUP})?::(?:{_GROUP}:){{{4 - n}}}{_LAST}" for n in range(5)),
        rf"(?:(?:{_GROUP}:){{0,5}}{_GROUP})?::{_GROUP}",
        rf"(?:(?:{_GROUP}:){{0,6}}{_GROUP})?::",
    ]
)
_LABEL = r"[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
_HOST = rf"{_LABEL}(?:\.{_LABEL})*"
# No label may look as if it were in Punycode: not every such label stands for a name.
_BOUNDED_HOST = rf"(?=[^@]{{1,253}}$)(?!(?:[^@]*\.)?..--){_HOST}"
_ATOM_CHAR = r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]"
_ATOM = rf"{_ATOM_CHAR}+"
_WIDE_ATOM = rf"(?:{_ATOM_CHAR}|[\u00A1-\uD7FF]|[\uF900-\uFFEF])+"
_POINTER = r"(?:/(?:[^~/]|~[01])*)*"


def _references(wide: str) -> tuple[str, str]:
    """(absolute, any reference) of RFC 3986, with more characters allowed for RFC 3987."""
    unreserved = rf"[A-Za-z0-9._~!$&'()*+,;={wide}-]|%[0-9A-Fa-f]{{2}}"
    char = rf"(?:{unreserved}|[:@])"
    host = rf"(?:\[(?:{_IPV6}|v[0-9A-Fa-f]+\.[A-Za-z0-9._~!$&'()*+,;=:-]+)\]|(?:{unreserved})*)"
    authority = rf"(?:(?:{unreserved}|:)*@)?{host}(?::\d*)?"
    rooted = rf"/(?:{char}+(?:/{char}*)*)?"
    hierarchy = rf"(?://{authority}(?:/{char}*)*|{rooted}|{char}+(?:/{char}*)*|)"
    relative = rf"(?://{authority}(?:/{char}*)*|{rooted}|(?:{unreserved}|@)+(?:/{char}*)*|)"
    tail = rf"(?:\?(?:{char}|[/?])*)?(?:#(?:{char}|[/?])*)?"
    absolute = rf"[A-Za-z][A-Za-z0-9+.-]*:{hierarchy}{tail}"
    return absolute, rf"(?:{absolute}|{relative}{tail})"


_URI, _URI_REFERENCE = _references("")
_IRI, _IRI_REFERENCE = _references(r"\u00A0-\uD7FF\uF900-\uFDCF\uFDF0-\uFFEF")
_VARIABLE = r"[A-Za-z0-9_](?:\.?[A-Za-z0-9_])*(?::[1-9]\d{0,3}|\*)?"

_EXPRESSIONS = {
    "date": _DATE,
    "time": _TIME,
    "date-time": rf"{_DATE}[Tt]{_TIME}",
    "duration": rf"P(?:{_DATE_PARTS}(?:T{_TIME_PARTS})?|T{_TIME_PARTS}|\d+W)",
    "email": rf"(?=[^@]{{1,64}}@.{{1,189}}$){_ATOM}(?:\.{_ATOM})*@(?:{_HOST}|\[{_IPV4}\])",
    "idn-email": rf"(?=[^@]{{1,16}}@.{{1,189}}$){_WIDE_ATOM}(?:\.{_WIDE_ATOM})*@{_HOST}",
    "hostname": _BOUNDED_HOST,
    "idn-hostname": _BOUNDED_HOST,
    "ipv4": _IPV4,
    "ipv6": _IPV6,
    "uri": _URI,
    "uri-reference": _URI_REFERENCE,
    "iri": _IRI,
    "iri-reference": _IRI_REFERENCE,
    "uri-template": rf"(?:[^\x00-\x20\x7F\"'%<>\\^`{{|}}]|%[0-9A-Fa-f]{{2}}|\{{[+#./;?&]?{_VARIABLE}(?:,{_VARIABLE})*\}})*",
    "uuid": r"[0-9A-Fa-f]{8}-(?:[0-9A-Fa-f]{4}-){3}[0-9A-Fa-f]{12}",
    "json-pointer": _POINTER,
    "relative-json-pointer": rf"(?:0|[1-9]\d*)(?:#|{_POINTER})",
    "byte": r"(?:[A-Za-z0-9+/]{4})*(?:[A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?",
}
EXPRESSIONS = {name: f"^(?:{body})$" for name, body in _EXPRESSIONS.items()}
"""By format. What they allow is valid; where a format's rules go beyond a regular language they allow less than it does."""

EXACT = frozenset({"date", "ipv4", "ipv6", "uuid", "json-pointer", "relative-json-pointer"})
"""Formats whose expression allows all that is valid, so that what does not fit it is not valid."""

UNENFORCED_FORMATS = frozenset({"regex"})
"""Formats of the standard that no grammar can follow."""

INTEGER_BOUNDS = {
    **{f"int{bits}": (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) for bits in (8, 16, 32, 64)},
    **{f"uint{bits}": (0, 2**bits - 1) for bits in (8, 16, 32, 64)},
    "uint": (0, 2**64 - 1),
}
"""Formats of numbers (OpenAPI, schemars) by the bounds that they set."""
