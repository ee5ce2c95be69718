"""Texts that a terminal, a spreadsheet or a markup would take for something else than text."""

HOSTILE = (
    # formulas of spreadsheets
    "=1+1", "=cmd|' /C calc'!A0", '=HYPERLINK("http://evil.example","x")', "+1+1", "+cmd", "-1+1",
    "-2+3+cmd|' /C calc'!A0", "@SUM(1+1)", "@import", "\t=1+1", "\r=1+1", "=", "+", "-", "@",
    "-0.5",
    "+1e5", "=\n=", '="', "=',", "@\t", "\t", "\r", "\r\n=1",
    # escape sequences and other control characters
    "\x1b[31mred\x1b[0m", "\x1b]0;title\x07", "\x1b]8;;http://evil.example\x1b\\x\x1b]8;;\x1b\\",
    "\x1b[2J\x1b[H", "\x1bc", "\x1b[?1049h", "\x9b31m", "\x9d0;t\x9c", "\x90q\x9c", "\x07",
    "\x08\x08",
    "a\x7fb", "\x0b", "\x0c", "a\rb", "a\nb", "\x85", "\x1a", "\x1b", "\x1b[6n", "\x1bP$q\x1b\\",
    # direction, width, invisibility
    "\u202eevil\u202c", "\u2066a\u2069", "\u200b", "\ufeff", "\u200fabc", "\u2028", "\u2029",
    "\U000e0041",
    # markup
    "[bold red]x[/]", "[link=http://evil.example]x[/link]", "[/]", "[", "\\[x]", ":skull:",
    "[@click=q]x[/]",
    "<script>alert(1)</script>", "<img src=x onerror=alert(1)>", "&lt;", "{{7*7}}", "${7*7}",
    "%s%n", "{0}",
    # quotation
    '"', "'", '""', "'=1", ",", ";", "a,b\n=c", "\\", "`x`", "NULL", "nan", "",
)  # fmt: skip
