"""What pages share: one sheet that needs nothing else, its style, its tables."""

import html
from collections.abc import Iterable
from typing import Any

STYLE = """
body{font:15px/1.5 system-ui,sans-serif;color:#18181b;margin:2.5rem auto;max-width:780px;padding:0 1rem}
h1{font-size:1.5rem;margin:0}h2{font-size:1.15rem;margin:2.4rem 0 .3rem;padding-top:.6rem;border-top:1px solid #e4e4e7}
p{margin:.3rem 0 .8rem}h3{font-size:.95rem;margin:1.2rem 0 .2rem}ul{margin:.4rem 0 .8rem;padding-left:1.2rem}
svg{width:100%;height:auto}svg.square{max-width:360px}svg text{font-size:11px;fill:#52525b}
table{border-collapse:collapse;width:100%;font-size:13px}td,th{padding:.25rem .6rem .25rem 0;text-align:left;
border-bottom:1px solid #e4e4e7;vertical-align:top;overflow-wrap:break-word}th{font-weight:600}

table.grid{width:auto;margin:.5rem 0}table.grid th{white-space:nowrap;text-align:center;padding:.25rem .6rem}
table.grid td.cell{text-align:center;padding:.35rem .9rem;min-width:4.5rem}
small{color:#52525b}.side{display:flex;flex-wrap:wrap;gap:1.5rem}.side>div{flex:1 1 300px}
.legend span{margin-right:1rem;font-size:12px;color:#3f3f46}
.legend i{display:inline-block;width:10px;height:10px;margin-right:4px;border-radius:2px}
.drift,.no,.flagged,.bad{color:#b91c1c;font-weight:600}.watch,.unknown,.waiting{color:#a16207}
.no_drift,.yes,.clear,.good{color:#15803d}.none{color:#71717a}code,pre{font-size:12px}
pre{background:#f4f4f5;padding:.7rem 1rem;border-radius:8px;white-space:pre-wrap;overflow-wrap:anywhere}
.verdict{font-size:1.05rem;padding:.7rem 1rem;border-radius:8px;background:#f4f4f5;margin:1rem 0}
@page{margin:16mm 14mm}
@media print{body{margin:0;padding:0;max-width:none;font-size:11px;print-color-adjust:exact}
table{font-size:10px}h2,h3{break-after:avoid}svg,tr,pre,.verdict,table.grid{break-inside:avoid}svg{max-width:150mm}
svg.square{max-width:80mm}a{color:inherit}}
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
    return f"<table><thead><tr>{head}</tr></thead>{body}</table>"


def _cell(value: Any) -> str:
    text, style = value if isinstance(value, tuple) else (value, "")
    return f"<td class='{html.escape(style)}'>{html.escape(str(text))}</td>"
