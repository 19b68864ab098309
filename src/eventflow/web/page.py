"""The page at `/`: the ledger as a plain table, until the dashboard is built.

It loads nothing and runs nothing: no scripts, no addresses, one style sheet that its policy names
by hash. It refreshes itself by a meta element.
"""

from __future__ import annotations

from base64 import b64encode
from hashlib import sha256
from html import escape
from typing import TYPE_CHECKING, Any

from starlette.responses import HTMLResponse

from eventflow.web.problem import COMMON_HEADERS

if TYPE_CHECKING:
    from collections.abc import Mapping

    from eventflow.web.call import Call

REFRESH_S = 2
COLUMNS = (
    "created",
    "delivered",
    "queued",
    "running",
    "retrying",
    "parked",
    "dead",
    "discarded",
    "archived",
)
NODE_COLUMNS = ("state", "roles", "version", "host", "started_at", "beat_at")
_STYLE = """
:root { color-scheme: light dark; font: 16px/1.5 system-ui, sans-serif }
body { margin: 2rem auto; max-width: 70rem; padding: 0 1rem }
table { border-collapse: collapse; font-variant-numeric: tabular-nums }
th, td { padding: .3rem .8rem; text-align: right; border-bottom: 1px solid #8884 }
th:first-child, td:first-child { text-align: left }
div { overflow-x: auto }
"""
_HASH = b64encode(sha256(_STYLE.encode()).digest()).decode()
POLICY = (
    f"default-src 'none'; style-src 'sha256-{_HASH}'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'"
)


async def get_page(call: Call) -> HTMLResponse:
    """Answer the ledger as a page."""
    headers = {
        **COMMON_HEADERS,
        "content-security-policy": POLICY,
        "referrer-policy": "no-referrer",
    }
    page = render(await call.node.stats(), await call.node.nodes())
    return HTMLResponse(page, headers=headers)


def render(stats: Mapping[str, Any], nodes: Mapping[str, Any]) -> str:
    """Return the page for what `GET /v1/stats` and `GET /v1/nodes` answer."""
    head = "".join(f'<th scope="col">{name}</th>' for name in ("topic", *COLUMNS))
    rows = "".join(_row(name, topic) for name, topic in stats.get("topics", {}).items())
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<meta http-equiv="refresh" content="{REFRESH_S}">
<title>EventFlow</title>
<style>{_STYLE}</style>
</head>
<body>
<h1>EventFlow</h1>
<p>As of {_text(stats.get("as_of"))}: accepted {_text(stats.get("accepted"))},
unaccounted {_text(stats.get("unaccounted"))}. Every {REFRESH_S} seconds this page looks again.</p>
<div><table>
<thead><tr>{head}</tr></thead>
<tbody>{rows}</tbody>
</table></div>
{_nodes(nodes)}
<p>This is not the dashboard yet. All that there is to see and do is in the HTTP interface
(<code>/v1/stats</code>, <code>/v1/deliveries</code>, <code>/v1/groups</code>) and the command
<code>eventflow</code>.</p>
</body>
</html>
"""


def _row(name: str, topic: Mapping[str, Any]) -> str:
    paused = " (paused)" if topic.get("paused") else ""
    cells = "".join(f"<td>{_text(topic.get(column))}</td>" for column in COLUMNS)
    return f"<tr><td>{escape(name)}{paused}</td>{cells}</tr>"


def _nodes(told: Mapping[str, Any]) -> str:
    """Return the nodes as a table, where there are several."""
    nodes, undone = told.get("nodes", ()), told.get("undone", ())
    said = f"<p>No living node does this: {_text(', '.join(undone))}.</p>" if undone else ""
    if len(nodes) < 2:
        return said
    head = "".join(f'<th scope="col">{name}</th>' for name in ("node", *NODE_COLUMNS))
    rows = "".join(
        f"<tr><td>{_text(node['name'])}</td>"
        + "".join(f"<td>{_text(_words(node.get(column)))}</td>" for column in NODE_COLUMNS)
        + "</tr>"
        for node in nodes
    )
    return (
        f"<div><table>\n<thead><tr>{head}</tr></thead>\n<tbody>{rows}</tbody>\n</table></div>{said}"
    )


def _words(value: Any) -> Any:
    return ", ".join(value) if isinstance(value, list) else value


def _text(value: Any) -> str:
    return "-" if value is None else escape(str(value))
