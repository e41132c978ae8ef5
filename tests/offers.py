"""Tables of the triggers that ask for what they show; `tests/test_triggers.py` plays them."""

OFFER = {
    "a day after a visit: of the list the best by propensity times price, or margin where it is told": """
        1 10:00         | consent |
        1 10:05         | view A  |
        1 12:00         | view B  |
        2 10:04:59.999  | clock   |
        2 10:05         | clock   | held 1 content until 2 11:05
        2 10:05:01      | offer C =0.5 @9 D =0.2 @30 E =0.1 @99 %20 | sent 1: D
        2 11:05         | clock   |
    """,
    "the list's order decides where nothing has a price": """
        1 10:00         | consent |
        1 10:05         | view A  |
        2 10:05         | clock   | held 1 content until 2 11:05
        2 10:05:01      | offer C =0.5 D =0.4 | sent 1: C
    """,
    "no answer within the hour": """
        1 10:00         | consent |
        1 10:05         | view A  |
        2 10:05         | clock   | held 1 content until 2 11:05
        2 11:04:59.999  | clock   |
        2 11:05         | clock   | suppressed 1 unanswered
        2 11:06         | offer C =0.5 |
    """,
    "an answer at the last moment": """
        1 10:00         | consent |
        1 10:05         | view A  |
        2 10:05         | clock   | held 1 content until 2 11:05
        2 11:04:59.999  | clock   |
        2 11:05         | offer C =0.5 | sent 1: C
        2 11:05         | clock   |
    """,
    "an empty list": """
        1 10:00         | consent |
        1 10:05         | view A  |
        2 10:05         | clock   | held 1 content until 2 11:05
        2 10:05:01      | offer   | suppressed 1 nothing
    """,
    "an order begins the wait anew": """
        1 10:00         | consent |
        1 10:05         | view A  |
        1 23:00         | buy A   |
        2 10:05         | clock   |
        2 22:59:59.999  | clock   |
        2 23:00         | clock   | held 1 content until 3 00:00
    """,
    "also while the answer is on its way": """
        1 10:00         | consent |
        1 10:05         | view A  |
        2 10:05         | clock   | held 1 content until 2 11:05
        2 10:05:01      | buy C   | cancelled 1 purchase
        2 10:05:02      | offer C =0.5 |
        2 11:05         | clock   |
        3 10:05:01      | clock   | held 1 content until 3 11:05
    """,
    "an order of before that comes late may be in the answer: it is asked for again": """
        1 10:00         | consent |
        1 10:05         | buy A   |
        2 10:05         | clock   | held 1 content until 2 11:05
        2 10:05:01      | buy C of 1 10:04 |
        2 10:05:02      | offer D =0.5 | sent 1: D
    """,
    "once in seven days, and then after another visit": """
        1 10:00         | consent |
        1 10:05         | view A  |
        2 10:05         | clock   | held 1 content until 2 11:05
        2 10:06         | clock   |
        2 10:06         | offer C =0.5 | sent 1: C
        2 11:00         | view A  |
        9 10:05:59.999  | clock   |
        9 10:06         | clock   | held 1 content until 9 11:06
        9 10:07         | offer D =0.5 | sent 1: D
        30 10:00        | clock   |
        30 10:00        | view A  |
        31 10:00        | clock   | held 1 content until 31 11:00
    """,
    "what was done before the last one and comes late is no new visit": """
        1 10:00         | consent |
        1 10:05         | view A  |
        2 10:05         | clock   | held 1 content until 2 11:05
        2 10:06         | clock   |
        2 10:06         | offer C =0.5 | sent 1: C
        2 10:07         | view A of 2 10:06 |
        2 10:08         | buy A of 2 10:05 |
        30 10:00        | clock   |
    """,
    "a visit that comes late counts at its own time": """
        1 10:00         | consent |
        1 10:05         | view A  |
        1 10:10         | view B of 1 09:30 |
        2 09:29:59.999  | clock   |
        2 09:30         | clock   | held 1 content until 2 10:30
    """,
    "a view from before the order is no visit": """
        1 10:00         | consent |
        1 10:05         | buy A   |
        1 10:10         | view B of 1 09:30 |
        2 10:04:59.999  | clock   |
        2 10:05         | clock   | held 1 content until 2 11:05
    """,
    "held at night; in the morning it asks": """
        1 10:00         | consent |
        1 22:00         | zone Europe/London |
        2 22:00         | clock   | held 1 quiet until 3 09:00
        3 09:00         | clock   | held 1 content until 3 10:00
        3 09:01         | offer C =0.5 | sent 1: C
    """,
    "the night comes before the answer: in the morning it asks again": """
        1 10:00         | consent |
        1 20:30         | zone Europe/London |
        2 20:30         | clock   | held 1 content until 2 21:30
        2 21:00         | clock   |
        2 21:00         | offer C =0.5 | held 1 quiet until 3 09:00
        3 09:00         | clock   | held 1 content until 3 10:00
        3 09:01         | offer D =0.5 | sent 1: D
    """,
    "whoever took consent back meanwhile": """
        1 10:00         | consent |
        1 10:05         | view A  |
        2 10:05         | clock   | held 1 content until 2 11:05
        2 10:05:30      | refuse  |
        2 10:06         | offer C =0.5 | suppressed 1 consent
    """,
    "whoever is forgotten meanwhile": """
        1 10:00         | consent |
        1 10:05         | view A  |
        2 10:05         | clock   | held 1 content until 2 11:05
        2 10:05:30      | forget  | cancelled 1 forget
        2 10:06         | offer C =0.5 |
    """,
    "an order of it from before the nudge takes it back": """
        1 10:00         | consent |
        1 10:05         | view A  |
        2 10:05         | clock   | held 1 content until 2 11:05
        2 10:06         | offer C =0.5 | sent 1: C
        2 10:30         | buy B of 2 10:04 |
        2 10:31         | buy C of 2 10:04 | revoked 1 purchase
    """,
}

RISING = {
    "what rises most in his category, if it rises by two standard deviations": """
        1 10:00         | consent |
        1 10:05         | view A  |
        2 10:04:59.999  | clock   |
        2 10:05         | clock   | held 1 content until 2 11:05
        2 10:06         | offer C =2.0 D =1.9 | sent 1: C
    """,
    "and not if it rises by less": """
        1 10:00         | consent |
        1 10:05         | view A  |
        2 10:05         | clock   | held 1 content until 2 11:05
        2 10:06         | offer C =1.99 | suppressed 1 nothing
        9 10:05         | clock   |
    """,
    "nothing rises": """
        1 10:00         | consent |
        1 10:05         | view A  |
        2 10:05         | clock   | held 1 content until 2 11:05
        2 10:06         | offer   | suppressed 1 nothing
    """,
    "no answer within the hour": """
        1 10:00         | consent |
        1 10:05         | view A  |
        2 10:05         | clock   | held 1 content until 2 11:05
        2 11:05         | clock   | suppressed 1 unanswered
    """,
    "an order begins the wait anew": """
        1 10:00         | consent |
        1 10:05         | view A  |
        2 10:04         | buy A   |
        2 10:05         | clock   |
        3 10:04         | clock   | held 1 content until 3 11:04
    """,
    "once in seven days": """
        1 10:00         | consent |
        1 10:05         | view A  |
        2 10:05         | clock   | held 1 content until 2 11:05
        2 10:06         | clock   |
        2 10:06         | offer C =3 | sent 1: C
        2 11:00         | view A  |
        9 10:05:59.999  | clock   |
        9 10:06         | clock   | held 1 content until 9 11:06
    """,
}

TABLES = {"next-best-offer": OFFER, "trending-for-you": RISING}
