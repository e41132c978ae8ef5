"""What `event` campaigns do, as tables: `tests/test_triggers.py` plays them for an `invited` at 0 s."""

from __future__ import annotations

TABLES = {
    "at once after an event of the shop's own, with its items, once": """
        10:00         | consent |
        10:05         | invited A B |
        10:05         | clock   | sent 1: A B
        20 10:05      | clock   |
    """,
    "no other event does": """
        10:00  | consent |
        10:05  | visited A |
        10:06  | view A  |
        10:07  | clock   |
    """,
    "an order cancels, also at the very time of the event": """
        10:00         | consent |
        10:05         | invited |
        10:05         | buy A   | cancelled 1 purchase
        10:05         | clock   |
    """,
    "an order from before the event does not": """
        10:00         | consent |
        10:05         | invited |
        10:05         | buy A of 10:04:59.999 |
        10:05         | clock   | sent 1:
    """,
    "an event that comes after an order, and was before it or with it, is over": """
        10:00         | consent |
        10:06         | buy A   |
        10:07         | invited of 10:05:59.999 |
        10:08         | invited of 10:06 |
        10:09         | clock   |
    """,
    "one right after the order is not": """
        10:00         | consent |
        10:06         | buy A   |
        10:07         | invited of 10:06:00.001 |
        10:07         | clock   | sent 1:
    """,
    "what is forgotten is over": """
        10:00  | consent |
        10:05  | invited |
        10:05  | forget  | cancelled 1 forget
        10:06  | clock   |
    """,
    "no second one while the campaign rests": """
        1 10:00         | consent |
        1 10:05         | invited |
        1 10:05         | clock   | sent 1:
        8 10:04:59.999  | invited |
        8 10:04:59.999  | clock   | suppressed 1 rest
        8 10:05         | invited |
        8 10:05         | clock   | sent 1:
    """,
    "without consent nobody gets it": """
        10:05  | invited |
        10:05  | clock   | suppressed 1 identified
        10:06  | zone Europe/London |
        10:07  | invited |
        10:07  | clock   | suppressed 1 consent
    """,
}

STEPS = {
    "after its delays, not a millisecond earlier; the second one after the first, if that is later": """
        10:00         | consent |
        10:05         | invited A |
        11:04:59.999  | clock   |
        11:05         | clock   | sent 1: A
        2 11:04:59.999 | clock  |
        2 11:05       | clock   | sent 2: A
        9 11:05       | clock   |
    """,
    "another one puts it off, and takes its place": """
        10:00  | consent |
        10:05  | invited A |
        11:04  | invited B |
        11:05  | clock   |
        12:03:59.999 | clock |
        12:04  | clock   | sent 1: B
    """,
    "an older one that comes late does not": """
        10:00  | consent |
        10:05  | invited A |
        10:10  | invited B of 10:04:59.999 |
        11:05  | clock   | sent 1: A
    """,
    "and puts off what is left of a sequence that runs": """
        1 10:00  | consent |
        1 10:05  | invited A |
        1 11:05  | clock   | sent 1: A
        1 20:00  | invited B |
        2 11:05  | clock   |
        2 20:00  | clock   | sent 2: B
    """,
    "an order between two of them cancels the second": """
        1 10:00  | consent |
        1 10:05  | invited A |
        1 11:05  | clock   | sent 1: A
        1 12:00  | buy C   | cancelled 2 purchase
        2 11:05  | clock   |
    """,
    "an order from before the nudge that comes late takes it back": """
        1 10:00  | consent |
        1 10:05  | invited A |
        1 11:05  | clock   | sent 1: A
        1 11:06  | buy C of 1 11:04 | revoked 1 purchase; cancelled 2 purchase
        2 11:05  | clock   |
    """,
}

WHERE = {
    "only if the event says so, in its attributes or its context": """
        10:00  | consent |
        10:05  | invited A campaign=17 |
        10:06  | invited A |
        10:07  | clock   |
        10:08  | invited A campaign=18 |
        10:08  | clock   | sent 1: A
    """,
    "attributes come before the context": """
        10:00  | consent |
        10:05  | invited A campaign=18 +campaign=17 |
        10:06  | clock   |
        10:08  | invited B campaign=17 +campaign=18 |
        10:08  | clock   | sent 1: B
    """,
}

UNLESS = {
    "another type ends it, and orders do not": """
        10:00  | consent |
        10:05  | invited A |
        10:30  | buy A   |
        11:05  | clock   | sent 1: A
        2 10:05 | answered | cancelled 2 answered
        2 11:05 | clock  |
    """,
    "at the very time, too; before it, not": """
        1 10:00  | consent |
        1 10:05  | invited A |
        1 10:06  | answered of 1 10:04:59.999 |
        1 10:07  | answered of 1 10:05 | cancelled 1 answered
        1 11:05  | clock   |
    """,
    "the event comes late: it was over": """
        1 10:00  | consent |
        1 10:06  | answered |
        1 10:07  | answered of 1 10:03 |
        1 10:08  | invited A of 1 10:06 |
        1 11:06  | clock   |
        1 12:00  | invited A of 1 10:06:00.001 |
        1 12:00  | clock   | sent 1: A
    """,
    "nothing is revoked by an order": """
        1 10:00  | consent |
        1 10:05  | invited A |
        1 11:05  | clock   | sent 1: A
        1 11:06  | buy C of 1 11:04 |
        2 11:05  | clock   | sent 2: A
    """,
}

NEVER = {
    "nothing ends it": """
        1 10:00  | consent |
        1 10:05  | invited A |
        1 10:06  | buy A   |
        1 11:05  | clock   | sent 1: A
        1 11:06  | buy A of 1 11:04 |
        2 11:05  | clock   | sent 2: A
    """,
}

ORDERS = {
    "an order may set it off: then another one puts it off, and none revokes it": """
        1 10:00  | consent |
        1 10:05  | buy A   |
        1 10:30  | buy B   |
        1 11:05  | clock   |
        1 11:30  | clock   | sent 1: B
        1 11:31  | buy C of 1 11:29 |
        2 11:29:59.999 | clock |
        2 11:30  | clock   | sent 2: C
    """,
}

SAID = {
    "steps": (STEPS, {"event": "invited"}),
    "where": (WHERE, {"event": "invited", "where": {"campaign": "18"}}),
    "unless": (UNLESS, {"event": "invited", "unless": "answered"}),
    "never": (NEVER, {"event": "invited", "unless": None}),
    "orders": (ORDERS, {"event": "purchase"}),
}
"""By name: tables, and the parameters of a campaign whose steps are 1 h and 24 h, or 0 s with ``where``."""
