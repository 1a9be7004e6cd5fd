"""Tools that do something, so that the assistant only confirms it."""

from __future__ import annotations

import random

from demo.phrasing import phrase, question
from demo.tools.case import ToolCase, integer, text
from demo.words import EVERYDAY, NAMES, WEEKDAYS


def timer(rng: random.Random) -> ToolCase:
    """A countdown."""
    minutes, label = (
        rng.randint(1, 90),
        rng.choice(["pasta", "tea", "eggs", "break", "laundry", "workout", "pizza", "nap", "meeting"]),
    )
    pattern = (
        "[Set|Start|Please set] a [timer for {m} minutes|{m} minute timer] [for|called|named] [the |]{w}[.|]"
    )
    return ToolCase(
        rng.choice(("set_timer", "start_timer", "create_timer")),
        "Start a countdown timer.",
        {"minutes": integer("Length in minutes"), "label": text("Name of the timer")},
        {"minutes": minutes, "label": label},
        question(rng, pattern, m=minutes, w=label),
        {"status": "started"},
        phrase(
            rng,
            "Your {w} timer is set for {m} minutes.|Done: the {w} timer runs for {m} minutes.",
            m=minutes,
            w=label,
        ),
        f"a {label} timer of {minutes} minutes",
        (str(minutes),),
    )


def message(rng: random.Random) -> ToolCase:
    """A text message to somebody."""
    name = rng.choice(NAMES)
    start = rng.choice(("I will be", "see you", "we are", "please be", "the train is", "I am"))
    middle = rng.choice(["late", "there", "home", "ready", "early", "here"])
    body = f"{start} {middle} {rng.choice(('today', 'tonight', 'at noon', 'soon', 'tomorrow', 'at six'))}"
    pattern = "[Send|Write|Text] [a message to |]{w}[:|, saying| saying] {t}[.|]|Tell {w} {t}[.|]"
    return ToolCase(
        rng.choice(("send_message", "send_text", "message_contact")),
        "Send a text message to a contact.",
        {"to": text("Contact"), "text": text("Message text")},
        {"to": name, "text": body},
        phrase(rng, pattern, w=name, t=body),
        {"status": "sent"},
        phrase(rng, "I sent the message to {w}.|Done, {w} has your message.", w=name),
        f"a message to {name}",
        (name,),
    )


def dice(rng: random.Random) -> ToolCase:
    """A throw of dice."""
    sides, count = rng.choice((4, 6, 8, 10, 12, 20, 100)), rng.randint(1, 5)
    rolls = [rng.randint(1, sides) for _ in range(count)]
    return ToolCase(
        rng.choice(("roll_dice", "dice", "throw_dice")),
        "Roll dice.",
        {"sides": integer("Sides per die"), "count": integer("Number of dice")},
        {"sides": sides, "count": count},
        question(rng, "[Roll|Throw] {c} [dice|die] with {s} sides[.|]|Roll {c}d{s}[.|]", c=count, s=sides),
        {"rolls": rolls},
        phrase(rng, "You rolled {x}.|The dice show {x}.", x=", ".join(map(str, rolls))),
        f"{count} dice with {sides} sides",
        tuple(map(str, rolls)),
    )


def appointment(rng: random.Random) -> ToolCase:
    """An entry in the calendar."""
    what = rng.choice(
        ["lunch", "dentist", "training", "meeting", "dinner", "concert", "haircut", "interview"]
    )
    day, time = rng.choice(WEEKDAYS), f"{rng.randint(7, 21):02d}:{rng.choice(('00', '15', '30', '45'))}"
    pattern = "[Add|Put] [a |]{w} on {d} at {t} [to|in] my calendar[.|]|[Schedule|Plan] [a |]{w} [for|on] {d} at {t}[.|]"
    return ToolCase(
        rng.choice(("create_event", "add_event", "calendar_add")),
        "Add an event to the calendar.",
        {"title": text("Title"), "day": text("Day of the week"), "time": text("Start time")},
        {"title": what, "day": day, "time": time},
        question(rng, pattern, w=what, d=day, t=time),
        {"status": "created"},
        phrase(rng, "Your {w} is planned for {d} at {t}.|Done: {w} on {d} at {t}.", w=what, d=day, t=time),
        f"{what} on {day} at {time}",
        (what, day, time),
    )


def to_do(rng: random.Random) -> ToolCase:
    """An entry on a list of things to do."""
    task = f"{rng.choice(('buy', 'clean', 'find', 'paint', 'repair', 'water'))} the {rng.choice(EVERYDAY)}"
    pattern = "[Add|Put] {q} [to|on] my [list|to-do list][.|]|Remind me to {t}[.|]|[New task|Note]: {t}[.|]"
    return ToolCase(
        rng.choice(("add_task", "create_todo", "add_todo")),
        "Add a task to the to-do list.",
        {"task": text("What to do")},
        {"task": task},
        question(rng, pattern, q=f'"{task}"', t=task),
        {"status": "added"},
        phrase(rng, 'I added "{t}" to your list.|Done, your list now has: {t}.', t=task),
        f"a task: {task}",
        (task,),
    )


def lights(rng: random.Random) -> ToolCase:
    """Lamps switched on and off."""
    room, state = (
        rng.choice(["kitchen", "bedroom", "bathroom", "office", "garage", "hall", "cellar", "garden"]),
        rng.choice(("on", "off")),
    )
    pattern = "[Turn|Switch] {s} the [light|lights|lamp] in the {r}[.|]|[Turn|Switch] the {r} [light|lights] {s}[.|]"
    return ToolCase(
        rng.choice(("set_light", "switch_light", "light_control")),
        "Switch the light in a room.",
        {"room": text("Room"), "state": text("on or off")},
        {"room": room, "state": state},
        question(rng, pattern, s=state, r=room),
        {"status": "ok"},
        phrase(rng, "The light in the {r} is {s}.|Done, the {r} light is {s} now.", r=room, s=state),
        f"the {room} light {state}",
        (room, state),
    )


def music(rng: random.Random) -> ToolCase:
    """Music to be played."""
    style = rng.choice(["jazz", "rock", "blues", "opera", "folk", "techno", "reggae", "piano", "guitar"])
    volume = rng.randint(1, 10)
    pattern = (
        "Play [some |]{s}[ music|] at volume {v}[.|]|[Put on|Start] [some |]{s}[ music|], volume {v}[.|]"
    )
    return ToolCase(
        rng.choice(("play_music", "start_music", "music_player")),
        "Play music.",
        {"style": text("Kind of music"), "volume": integer("Volume from 1 to 10")},
        {"style": style, "volume": volume},
        question(rng, pattern, s=style, v=volume),
        {"status": "playing"},
        phrase(rng, "Playing {s} at volume {v}.|Here is some {s}, volume {v}.", s=style, v=volume),
        f"{style} music at volume {volume}",
        (style,),
    )
