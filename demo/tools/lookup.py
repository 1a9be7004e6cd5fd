"""Tools that look something up and whose result the assistant reports."""

from __future__ import annotations

import random

from demo.phrasing import phrase, question
from demo.tools.case import ToolCase, integer, text
from demo.words import CITIES, CURRENCIES, EVERYDAY, LANGUAGES, TICKERS, TOPICS, invented, quoted, word


def weather(rng: random.Random) -> ToolCase:
    """The current weather in a city."""
    city, parameter = rng.choice(CITIES), rng.choice(("city", "location", "place"))
    degrees, sky = (
        rng.randint(-10, 38),
        rng.choice(["sunny", "cloudy", "rainy", "windy", "foggy", "snowy", "clear"]),
    )
    pattern = "What is the weather [like |]in {c}[ today| now|]?|How is the weather in {c}?|Weather in {c}[ please|?|]"
    pattern += "|Is it [raining|sunny|cold|warm] in {c}?|Tell me the [weather|temperature] in {c}[.|]"
    return ToolCase(
        rng.choice(("get_weather", "weather", "current_weather", "weather_lookup")),
        "Get the current weather in a city.",
        {parameter: text("Name of the city")},
        {parameter: city},
        question(rng, pattern, c=city),
        {"temperature": degrees, "condition": sky},
        phrase(
            rng,
            "It is {t} degrees and {s} in {c}.|In {c} it is {s} with {t} degrees.",
            t=degrees,
            s=sky,
            c=city,
        ),
        f"the weather in {city}",
        (str(degrees), sky),
    )


def calculator(rng: random.Random) -> ToolCase:
    """An arithmetic expression handed to a calculator."""
    a, b, operator = rng.randint(10, 9999), rng.randint(10, 999), rng.choice("+-*")
    value = {"+": a + b, "-": a - b, "*": a * b}[operator]
    expression, parameter = f"{a} {operator} {b}", rng.choice(("expression", "formula", "input"))
    return ToolCase(
        rng.choice(("calculator", "calculate", "evaluate", "math_eval")),
        "Evaluate an arithmetic expression.",
        {parameter: text("Expression to evaluate")},
        {parameter: expression},
        question(rng, "[What is|Calculate|Compute|Work out|Use the tool for] {e}[?|]", e=expression),
        {"result": value},
        phrase(rng, "{e} = {v}|The result is {v}.|It is {v}.", e=expression, v=value),
        expression,
        (str(value),),
    )


def local_time(rng: random.Random) -> ToolCase:
    """The local time in a city."""
    city, parameter = rng.choice(CITIES), rng.choice(("city", "place", "where"))
    time = f"{rng.randrange(24):02d}:{rng.randrange(60):02d}"
    pattern = "What time is it in {c}[ now|]?|Tell me the time in {c}[.|]|Current time in {c}[?|]"
    return ToolCase(
        rng.choice(("get_time", "current_time", "world_clock", "time_in_city")),
        "Get the local time in a city.",
        {parameter: text("City")},
        {parameter: city},
        question(rng, pattern + "|What is the local time in {c}?", c=city),
        {"time": time},
        phrase(rng, "It is {t} in {c}.|The local time in {c} is {t}.", t=time, c=city),
        f"the time in {city}",
        (time,),
    )


def exchange(rng: random.Random) -> ToolCase:
    """An amount of money in another currency."""
    amount, converted, (source, target) = rng.randint(1, 999), rng.randint(1, 9999), rng.sample(CURRENCIES, 2)
    pattern = (
        "[Convert|Change|Exchange] {a} {x} [to|into] {y}[.|]|How much is {a} {x} in {y}?|{a} {x} in {y}[?|]"
    )
    return ToolCase(
        rng.choice(("convert_currency", "currency_convert", "exchange")),
        "Convert an amount between currencies.",
        {"amount": integer("Amount"), "from": text("Source currency"), "to": text("Target currency")},
        {"amount": amount, "from": source, "to": target},
        question(rng, pattern, a=amount, x=source, y=target),
        {"converted": converted},
        phrase(rng, "{a} {x} is {v} {y}.|That is {v} {y}.", a=amount, x=source, y=target, v=converted),
        f"{amount} {source} in {target}",
        (str(converted), target),
    )


def stock(rng: random.Random) -> ToolCase:
    """The price of a stock."""
    ticker, parameter, price = rng.choice(TICKERS), rng.choice(("symbol", "ticker")), rng.randint(10, 900)
    pattern = "What is the [stock |]price of {s}?|How is {s} trading?|[Stock price|Quote] for {s}[?|]|Get me the {s} price[.|]"
    return ToolCase(
        rng.choice(("get_stock_price", "stock_quote", "stock_price")),
        "Get the latest price of a stock.",
        {parameter: text("Ticker symbol")},
        {parameter: ticker},
        question(rng, pattern, s=ticker),
        {"price": price},
        phrase(rng, "{s} trades at {v}.|The price of {s} is {v}.", s=ticker, v=price),
        f"the price of {ticker}",
        (str(price),),
    )


def translate(rng: random.Random) -> ToolCase:
    """A word in another language."""
    source, language, translated = rng.choice(EVERYDAY), rng.choice(LANGUAGES), invented(rng)
    pattern = "Translate {q} [to|into] {l}[.|]|What is {q} in {l}?|How do you say {q} in {l}?"
    return ToolCase(
        rng.choice(("translate", "translate_text", "translator")),
        "Translate text into a language.",
        {"text": text("Text"), "language": text("Target language")},
        {"text": source, "language": language},
        question(rng, pattern, q=quoted(rng, source), l=language),
        {"translation": translated},
        phrase(rng, "In {l} it is {o}.|{o}", l=language, o=translated),
        f"{source} in {language}",
        (translated,),
    )


def read_file(rng: random.Random) -> ToolCase:
    """The content of a text file."""
    stem = rng.choice(["notes", "todo", "report", "data", "main", "config", "readme", "draft"])
    path = stem + rng.choice((".txt", ".md", ".csv", ".py", ".json"))
    content = " ".join(word(rng) for _ in range(rng.randint(2, 5)))
    pattern = "[Read|Open|Show me|What is in|Print] [the file |]{p}[.|]"
    return ToolCase(
        rng.choice(("read_file", "open_file", "cat_file")),
        "Read a text file.",
        {"path": text("Path of the file")},
        {"path": path},
        question(rng, pattern, p=path),
        {"content": content},
        phrase(rng, "The file says: {x}|{p} contains: {x}", x=content, p=path),
        f"the content of {path}",
        (content,),
    )


def web_search(rng: random.Random) -> ToolCase:
    """A search of the web."""
    topic, parameter, found = rng.choice(TOPICS), rng.choice(("query", "q", "keywords")), rng.randint(2, 90)
    return ToolCase(
        rng.choice(("web_search", "search", "search_web")),
        "Search the web.",
        {parameter: text("Search terms")},
        {parameter: topic},
        question(rng, "[Search [the web |]for|Look up|Find something about|Google] {t}[.|]", t=topic),
        {"results": found, "top": f"A guide to {topic}"},
        phrase(
            rng,
            "I found {k} results. The first is: A guide to {t}.|{k} results, first: A guide to {t}.",
            k=found,
            t=topic,
        ),
        f"{topic} on the web",
        (str(found), topic),
    )


def define(rng: random.Random) -> ToolCase:
    """A word looked up in a dictionary."""
    term, meaning = rng.choice(EVERYDAY), f"a kind of {invented(rng)}"
    return ToolCase(
        rng.choice(("define_word", "dictionary", "lookup_word")),
        "Look up a word in the dictionary.",
        {"word": text("Word")},
        {"word": term},
        question(
            rng,
            "Define {q}[.|]|What does {q} mean?|[Look up|Find] the meaning of {q}[.|]",
            q=quoted(rng, term),
        ),
        {"definition": meaning},
        phrase(rng, "{w}: {m}|The dictionary says that {w} is {m}.", w=term, m=meaning),
        f"the meaning of {term}",
        (meaning,),
    )


def distance(rng: random.Random) -> ToolCase:
    """How far two cities are apart."""
    (start, end), km = rng.sample(CITIES, 2), rng.randint(50, 9000)
    pattern = "How far is it from {a} to {b}?|[What is the distance|Distance] [between {a} and {b}|from {a} to {b}]?"
    return ToolCase(
        rng.choice(("get_distance", "distance", "route_length")),
        "Get the distance between two cities.",
        {"from": text("Start city"), "to": text("End city")},
        {"from": start, "to": end},
        question(rng, pattern, a=start, b=end),
        {"kilometers": km},
        phrase(
            rng,
            "It is {k} kilometers from {a} to {b}.|{a} and {b} are {k} kilometers apart.",
            k=km,
            a=start,
            b=end,
        ),
        f"the distance from {start} to {end}",
        (str(km),),
    )
