"""What pages share: one sheet that needs nothing else, its style, its tables."""

import html
from collections.abc import Iterable
from typing import Any

STYLE = """
body{font:15px/1.5 system-ui,sans-serif;color:#18181b;margin:2.5rem auto;max-width:780px;padding:0 1rem}
h1{font-size:1.5rem;margin:0}h2{font-size:1.1rem;margin:2.2rem 0 .3rem}p{margin:.3rem 0 .8rem}
h3{font-size:.95rem;margin:1.2rem 0 .2rem}svg{width:100%;height:auto}svg text{font-size:11px;fill:#52525b}
table{border-collapse:collapse;width:100%;font-size:13px}td,th{padding:.25rem .6rem .25rem 0;text-align:left;
border-bottom:1px solid #e4e4e7;vertical-align:top;overflow-wrap:break-word}
.legend span{margin-right:1rem;font-size:12px;color:#3f3f46}
.legend i{display:inline-block;width:10px;height:10px;margin-right:4px;border-radius:2px}
.drift,.no,.flagged,.bad{color:#b91c1c;font-weight:600}.watch,.unknown,.waiting{color:#a16207}
.no_drift,.yes,.clear,.good{color:#15803d}.none{color:#71717a}code,pre{font-size:12px}
pre{background:#f4f4f5;padding:.7rem 1rem;border-radius:8px;white-space:pre-wrap;overflow-wrap:anywhere}
.verdict{font-size:1.05rem;padding:.7rem 1rem;border-radius:8px;background:#f4f4f5;margin:1rem 0}
@media print{body{margin:0;max-width:none;font-size:12px}h2{break-after:avoid}svg,table,pre{break-inside:avoid}}
"""


def sheet(title: str, parts: Iterable[str]) -> str:
    """Put a page together; ``parts`` are HTML already."""
    name = html.escape(title)
    return (
        f"<!doctype html><html lang='en'><meta charset='utf-8'><title>{name}</title>"
        f"<style>{STYLE}</style><body><h1>{name}</h1>{''.join(parts)}</body></html>"
    )


def verdict(text: str, style: str) -> str:
    """Write the sentence that comes first."""
    return f"<div class='verdict {style}'>{html.escape(text)}</div>"


def table(columns: Iterable[str], rows: Iterable[Iterable[Any]]) -> str:
    """Write a table; a cell is a value, or a value and its style."""
    head = "".join(f"<th>{html.escape(c)}</th>" for c in columns)
    body = "".join(f"<tr>{''.join(_cell(c) for c in row)}</tr>" for row in rows)
    return f"<table><tr>{head}</tr>{body}</table>"


def _cell(value: Any) -> str:
    text, style = value if isinstance(value, tuple) else (value, "")
    return f"<td class='{html.escape(style)}'>{html.escape(str(text))}</td>"
