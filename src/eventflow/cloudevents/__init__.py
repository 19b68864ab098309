"""CloudEvents 1.0.2 to events and back: JSON format, JSON batch, JSON lines, HTTP binary mode.

    body → wire (fast, all at once) → events
             └ anything unusual → careful (one by one, knows every rule) → events, or InvalidEvent

No I/O. Whatever is wrong with what came in is an `InvalidEvent`; nothing else is raised.

What CloudEvents and JSON leave open is settled here so:

- A member that is null is a member that is absent; `"data": null` is no data.
- Of a member given twice the last one counts, as nearly all readers of JSON have it.
- Data is kept as the bytes that came. Its syntax, its UTF-8 and its nesting (at most 100 levels)
  are checked, so NaN, Infinity and half surrogates are refused; nothing else in it is looked at:
  a number beyond what Python can hold, or a name given twice, is for the handler to judge.
- `data` that is a string stands for its text where `datacontenttype` is not JSON; any other value
  is refused there. `data_base64` without `datacontenttype` is "application/octet-stream".
- In binary mode a body without Content-Type is JSON if it reads as JSON, else
  "application/octet-stream".
- An extension is text, a boolean or an integer of 32 bits. In binary mode all are text, since
  headers say no more.
"""

from eventflow.cloudevents.binary import decode_binary, to_binary
from eventflow.cloudevents.structured import (
    decode_batch,
    decode_lines,
    decode_plainly,
    decode_structured,
    encode_batch,
    encode_lines,
    encode_structured,
)

__all__ = [
    "decode_batch",
    "decode_binary",
    "decode_lines",
    "decode_plainly",
    "decode_structured",
    "encode_batch",
    "encode_lines",
    "encode_structured",
    "to_binary",
]
