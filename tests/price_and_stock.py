"""Tables of the triggers that the item side sets off; `tests/scenarios.py` explains them.

Whom the item side tells is in `tests/test_watchers.py`; here is what becomes of it.
"""

PRICE_DROP = {
    "an hour after a price fell a tenth below the one seen; what falls within it goes along": """
        10:00         | consent |
        10:05         | view A  |
        10:06         | view B  |
        11:00         | price A 100 90 |
        11:30         | price B 10 7 |
        11:59:59.999  | clock   |
        12:00         | clock   | sent 1: B A
        2 12:00       | clock   |
    """,
    "nine tenths are enough, a cent more is not": """
        10:00  | consent |
        10:05  | view A  |
        10:05  | view B  |
        11:00  | price A 100 90.01 |
        11:01  | price B 100 90.00 |
        12:01  | clock   | sent 1: B
    """,
    "what counts is the price that he saw": """
        10:00  | consent |
        10:05  | view A  |
        11:00  | price A 92 89 100 |
        12:00  | clock   | sent 1: A
    """,
    "a look at the moment when the price fell was before it": """
        10:00  | consent |
        11:00  | view A  |
        11:00  | price A 100 80 |
        12:00  | clock   | sent 1: A
    """,
    "not what he never looked at, or too long ago": """
        1 10:00         | consent |
        1 10:05         | view A  |
        1 10:05:00.001  | view B  |
        31 09:05:00.001 | price A 100 80 |
        31 09:05:00.001 | price B 100 80 |
        31 09:05:00.001 | price C 100 80 |
        31 10:05:00.001 | clock   | sent 1: B
    """,
    "the price has risen again": """
        10:00  | consent |
        10:05  | view A  |
        11:00  | price A 100 80 |
        11:10  | price A 80 85 100 |
        11:20  | price A 85 91 100 | cancelled 1 tidewise.price
        12:00  | clock   |
    """,
    "a rise of what was told is no news": """
        10:00  | consent |
        10:05  | view A  |
        11:00  | price A 100 80 |
        12:00  | clock   | sent 1: A
        12:30  | price A 80 85 100 |
        9 10:00 | clock  |
    """,
    "sold out meanwhile": """
        10:00  | consent |
        10:05  | view A  |
        10:05  | view B  |
        11:00  | price A 100 80 |
        11:10  | price B 100 80 |
        11:20  | stock A 1 0 |
        12:00  | clock   | sent 1: B
        9 11:00 | price B 80 60 |
        9 11:01 | stock B 1 0 | cancelled 1 tidewise.stock
        9 12:00 | clock   |
    """,
    "he looks at it again, and has seen the new price": """
        10:00  | consent |
        10:05  | view A  |
        11:00  | price A 100 80 |
        11:30  | view A  | cancelled 1 view_item
        12:00  | clock   |
    """,
    "he buys it; also what else he wished for stays": """
        10:00  | consent |
        10:05  | view A  |
        10:05  | wish B  |
        11:00  | price A 100 80 |
        11:00  | price B 100 80 |
        11:30  | buy A   |
        12:00  | clock   | sent 1: B
    """,
    "he bought it within thirty days": """
        1 10:00   | consent |
        1 10:05   | buy A   |
        20 10:05  | view A  |
        31 10:04:59.999 | price A 100 80 |
        31 10:04:59.999 | clock   |
        31 10:05  | price A 80 79 100 |
        31 11:05  | clock   | sent 1: A
    """,
    "an order that comes late cancels": """
        10:00  | consent |
        10:05  | view A  |
        11:00  | price A 100 80 |
        11:40  | buy A of 10:50 | cancelled 1 purchase
        12:00  | clock   |
    """,
    "one in seven days": """
        1 10:00  | consent |
        1 10:05  | view A  |
        1 10:05  | view B  |
        1 11:00  | price A 100 80 |
        1 12:00  | clock   | sent 1: A
        8 10:59:59.999 | price B 100 80 |
        8 11:59:59.999 | clock   | suppressed 1 rest
        8 11:59:59.999 | price B 80 70 100 |
        8 12:59:59.999 | clock   | sent 1: B
    """,
    "held in the night, and in the morning it is too long ago": """
        1 07:00  | consent |
        1 07:00  | zone Europe/London |
        1 08:00  | view A  |
        1 07:59:59.999 | view B |
        30 22:00 | price A 100 80 |
        30 22:00 | price B 100 80 |
        30 23:00 | clock   | held 1 quiet until 31 08:00
        31 08:00 | clock   | sent 1: A
        39 07:59:59.999 | price A 80 60 100 |
        39 10:00 | clock   |
    """,
    "forgotten": """
        10:00  | consent |
        10:05  | view A  |
        11:00  | price A 100 80 |
        11:01  | forget  | cancelled 1 forget
        11:02  | consent |
        11:03  | price A 80 60 100 |
        12:30  | clock   |
    """,
    "a visitor whom nobody could write to": """
        10:05  | visitor view A |
        11:00  | price A 100 80 |
        12:00  | clock   |
    """,
}

BACK_IN_STOCK = {
    "at once, with three pieces, for whom looked": """
        10:00  | consent |
        10:05  | view A  |
        11:00  | stock A 0 3 back |
        11:00  | clock   | sent 1: A
    """,
    "a look at the moment when it came back was before it": """
        10:00  | consent |
        11:00  | view A  |
        11:00  | stock A 0 3 back |
        11:00  | clock   | sent 1: A
    """,
    "not with two": """
        10:00  | consent |
        10:05  | view A  |
        11:00  | stock A 0 2 back |
        11:00  | clock   |
    """,
    "more of it, when he was told of enough": """
        10:00  | consent |
        10:05  | view A  |
        10:05  | view B  |
        11:00  | stock A 3 9 back 3 |
        11:00  | stock B 2 9 back 2 |
        11:00  | clock   | sent 1: B
    """,
    "more of what was there is no return": """
        10:00  | consent |
        10:05  | view A  |
        11:00  | stock A 1 3 |
        11:00  | clock   |
    """,
    "a wish waits for ever, a look for thirty days": """
        1 10:00         | consent |
        1 10:05         | wish A  |
        1 10:05         | view B  |
        1 10:05:00.001  | view C  |
        31 10:05:00.001 | stock A 0 3 back |
        31 10:05:00.001 | stock B 0 3 back |
        31 10:05:00.001 | stock C 0 3 back |
        31 10:05:00.001 | clock   | sent 1: C A
    """,
    "not who bought it within seven days": """
        1 10:00  | consent |
        1 10:04  | view A  |
        1 10:05  | buy A   |
        8 10:04:59.999 | stock A 0 3 back |
        8 10:04:59.999 | clock |
        8 10:05  | stock A 0 3 back |
        8 10:05  | clock   | sent 1: A
    """,
    "one a day": """
        1 10:00  | consent |
        1 10:05  | wish A  |
        1 10:05  | wish B  |
        1 11:00  | stock A 0 3 back |
        1 11:00  | clock   | sent 1: A
        2 10:59:59.999 | stock B 0 3 back |
        2 10:59:59.999 | clock   | suppressed 1 rest
        2 11:00  | stock B 0 3 back |
        2 11:00  | clock   | sent 1: B
    """,
    "held in the night, sold out in the morning": """
        10:00  | consent |
        10:00  | zone Europe/London |
        10:05  | wish A  |
        22:00  | stock A 0 3 back |
        22:00  | clock   | held 1 quiet until 2 09:00
        2 08:59 | stock A 3 0 | cancelled 1 tidewise.stock
        2 09:00 | clock   |
    """,
    "held in the night, and seen or bought before the morning": """
        1 10:00  | consent |
        1 10:00  | zone Europe/London |
        1 10:05  | wish A  |
        1 22:00  | stock A 0 3 back |
        1 22:00  | clock   | held 1 quiet until 2 09:00
        2 08:00  | view A  | cancelled 1 view_item
        2 22:00  | stock A 0 3 back |
        2 22:00  | clock   | held 1 quiet until 3 09:00
        3 08:00  | buy A   | cancelled 1 purchase
        3 09:00  | clock   |
    """,
    "held past the thirty days since he looked": """
        1 10:00  | consent |
        1 08:30  | zone Europe/London |
        1 22:30  | view A  |
        31 22:00 | stock A 0 3 back |
        31 22:00 | clock   | held 1 quiet until 32 08:00
        32 08:00 | clock   | suppressed 1 gone
    """,
}

LOW_STOCK = {
    "four are left of what is in the cart, or wished for; not of what was looked at": """
        10:00  | consent |
        10:05  | add A   |
        10:05  | wish B  |
        10:05  | view C  |
        11:00  | stock A 5 4 |
        11:00  | stock B 9 1 |
        11:00  | stock C 5 4 |
        11:00  | clock   | sent 1: B A
    """,
    "five are not few, and fewer is no news": """
        10:00  | consent |
        10:05  | add A   |
        11:00  | stock A 9 5 |
        11:01  | stock A 4 3 |
        11:02  | stock A 0 4 back |
        11:02  | clock   |
    """,
    "for fourteen days after it was put there": """
        1 10:00   | consent |
        1 10:05   | add A   |
        1 10:05:00.001  | add B |
        15 10:05:00.001 | stock A 9 4 |
        15 10:05:00.001 | stock B 9 4 |
        15 10:05:00.001 | clock | sent 1: B
    """,
    "taken out of the cart, bought, sold out, or more came": """
        1 10:00  | consent |
        1 10:00  | zone Europe/London |
        1 10:05  | add A   |
        1 10:05  | add B   |
        1 10:05  | wish C  |
        1 10:05  | wish D  |
        1 22:00  | stock A 9 4 |
        1 22:00  | stock B 9 4 |
        1 22:00  | stock C 9 4 |
        1 22:00  | stock D 9 4 |
        1 22:00  | clock   | held 1 quiet until 2 09:00
        1 23:00  | remove A |
        1 23:01  | buy B   |
        1 23:02  | stock C 4 0 |
        1 23:03  | stock D 4 5 | cancelled 1 tidewise.stock
        2 09:00  | clock   |
    """,
    "an order at the time of the wish came after it": """
        10:00  | consent |
        10:05  | wish A  |
        10:05  | buy A   |
        11:00  | stock A 9 4 |
        11:00  | clock   |
    """,
    "a wish that was bought is none until it is wished for again": """
        1 10:00  | consent |
        1 10:05  | wish A  |
        1 10:06  | buy A   |
        1 11:00  | stock A 9 4 |
        1 11:00  | clock   |
        1 11:05  | wish A  |
        1 12:00  | stock A 9 4 |
        1 12:00  | clock   | sent 1: A
    """,
    "one in seven days": """
        1 10:00  | consent |
        1 10:05  | add A   |
        1 10:05  | add B   |
        1 11:00  | stock A 9 4 |
        1 11:00  | clock   | sent 1: A
        8 10:59:59.999 | stock B 9 4 |
        8 10:59:59.999 | clock   | suppressed 1 rest
    """,
}

TABLES = {"price-drop": PRICE_DROP, "back-in-stock": BACK_IN_STOCK, "low-stock": LOW_STOCK}
