"""The vocabulary of the synthetic chats: everyday words, names, places, and small facts."""

from __future__ import annotations

import random


def listed(text: str, separator: str | None = None) -> list[str]:
    """Return the entries of a table: its words, or what lies between separators."""
    return [" ".join(entry.split()) for entry in text.split(separator)]


EVERYDAY = listed("""
ability acorn actor adventure airplane album alarm alley anchor angle animal ankle answer antelope apple
apricot april apron arch arena armchair arrow artist ashtray atlas attic august aunt autumn avenue avocado
badger bagel bakery ball balloon bamboo banana bandage banjo barn barrel basil basket bathtub battery beach
beacon bead beaver bedroom beetle bell bench bicycle birch birthday biscuit blanket blossom blue boat
bonfire book border bottle boulder bowl branch brave bread breeze brick bridge bright broom brother brown
bubble bucket buffalo butter button cabin cactus cake calendar calm camel camera canal candle candy canoe
canyon captain caramel caravan cardigan carpet carrot castle cathedral cattle ceiling celery cellar cello
century cereal chain chair chalk cheese cherry chess chestnut chicken chimney chocolate cinema cinnamon
circle circus city clay clever cliff clock cloud clover coast cobweb coconut coffee coin cold comet compass
concert cookie copper coral corner cotton country cousin cradle crane crater crayon cricket crocodile crown
crystal cucumber cup cupboard curtain cushion daffodil dairy dance dark daughter december deer desert desk
diamond diary dinner dolphin donkey door dragon drawer dream drum duck dusk eagle early earth easel echo
eclipse eight elbow elephant eleven emerald engine evening evergreen explorer factory falcon family farmer
feather february fence festival field fig finger firefly fisherman flag flame flamingo flask flower flute
foggy forest fork fossil fountain fox frame friday friend frog frost galaxy garage garden garlic gate gentle
giant ginger giraffe glacier glass glove goat gold goose grape grass gravel green grocery guitar hammer
hammock hamster harbor harvest hazel heart hedgehog helmet herring hill hobby honey horizon horse hospital
hotel hour house hungry husky iceberg icicle igloo indigo island ivory ivy jacket jaguar january jasmine
jelly jewel journey juice july jumper june jungle kangaroo kettle keyboard kitchen kite kitten knight koala
ladder lagoon lake lamp language lantern laptop large lavender lawn leaf leather lemon leopard lettuce
library lighthouse lilac lily lion lizard lobster locket loud lucky lunch magic magnet mango map maple
marble market marmalade meadow melody melon mermaid midnight milk mill mineral mirror mittens monday monkey
moon morning mosquito moss motor mountain mouse muffin museum mushroom music mustard narrow necklace needle
neighbor nephew nest network nickel night noodle north notebook november number nutmeg oasis ocean october
octopus olive onion orange orchard orchestra ostrich otter oven owl oyster paddle painter palace pancake
panda paper parachute parade parrot parsley path peach peacock peanut pear pebble pelican pencil penguin
pepper phone piano picnic picture pigeon pillow pilot pine pineapple planet plate plum pocket poem polar
pond poppy potato prairie present puddle pumpkin puppet purple puzzle pyramid quarter queen question quick
quiet quilt rabbit radio radish railway rainbow raisin raspberry raven recipe red reindeer ribbon rice river
robin robot rocket roof rose ruby saddle safari sailor salad salmon sandal sandwich saturday saturn sausage
scarf school scissors seagull season secret september shadow shark sheep shelf shell shepherd shoulder
shovel silk silver simple sister sketch sky sled slow snail snow soap soccer sofa soup south spider spinach
spoon spring squirrel stable star station stone storm strawberry street strong submarine sugar summer sunday
sunflower sunset swallow swan sweater table teacher teapot temple tennis tent theater thread thunder
thursday ticket tiger tiny toast tomato torch tortoise tower tractor train treasure triangle trumpet tuesday
tulip tunnel turkey turtle twelve umbrella uncle unicorn valley vanilla velvet village vinegar violet violin
volcano waffle wagon wallet walnut walrus water waterfall wednesday weather whale wheat wheel whisper
whistle white willow window winter wizard wolf wonder wood yellow yogurt zebra zipper accident accommodate
achieve address balance beginning believe business calendar category committee conscience definite different
disappear embarrass environment exercise existence experience foreign government grammar guarantee height
immediate independent intelligence judgment knowledge library maintenance mississippi necessary neighbour
noticeable occasion occurrence parallel possession privilege pronunciation receive recommend restaurant
rhythm schedule separate successful surprise tomorrow vacuum
""")

NAMES = listed("""
Ada Adam Aisha Alan Alice Amir Ana Anna Anton Ben Berta Bob Carl Chloe Clara Dan Dora Elena Eli Ella Emil
Emma Erik Eva Felix Finn Fatima Gina Grace Hana Hugo Ida Ines Iris Ivan Jack Jana Jonas Julia Kai Karen Kate
Ken Lara Lea Leo Lena Liam Lina Lucas Lucy Maja Marco Maria Max Maya Mia Mila Nadia Nina Noah Nora Olga Omar
Oscar Paul Petra Priya Rana Ravi Rita Rosa Ruth Sam Sara Simon Sofia Sven Tara Theo Tina Tom Vera Victor
Yara Yusuf Zoe
""")

ITEMS = listed("""
apples badges balloons beads books bottles boxes bricks buttons candles cards cherries coins cookies crayons
cups eggs feathers figs flowers grapes keys leaves lemons magnets marbles medals mugs notebooks nuts olives
onions oranges pears pebbles pencils peaches photos plates plums postcards potatoes puzzles ribbons ropes
seeds shells stamps stickers stones tickets tomatoes toys tulips
""")

CONTAINERS = listed("bag basket box bucket cart crate drawer jar packet pot row sack shelf tin tray")
PLACES = listed("""
bakery barn beach cellar farm garden garage harbor kitchen library market museum office park school shop
""")

CITIES = listed("""
Amsterdam Ankara Athens Auckland Baghdad Bangkok Barcelona Beijing Berlin Bogota Boston Brussels Cairo
Chicago Copenhagen Dallas Delhi Denver Doha Dubai Dublin Geneva Hamburg Hanoi Havana Helsinki Houston
Istanbul Jakarta Karachi Kyoto Lagos Lima Lisbon London Madrid Manila Melbourne Miami Milan Montreal Mumbai
Munich Nairobi Naples Osaka Oslo Paris Porto Prague Quito Riyadh Rome Santiago Seattle Seoul Shanghai
Singapore Sofia Stockholm Sydney Tokyo Toronto Venice Vienna Warsaw Zagreb Zurich
""")

LANGUAGES = listed("""
Arabic Chinese Czech Danish Dutch Finnish French German Greek Hindi Italian Japanese Korean Polish Spanish
""")

CURRENCIES = listed("AUD BRL CAD CHF CNY DKK EUR GBP INR JPY NOK PLN SEK USD")
TICKERS = listed("AAPL AMD AMZN GOOG IBM INTC META MSFT NFLX NVDA ORCL SAP SONY TSLA")
COLORS = listed("black blue brown gold gray green orange pink purple red silver violet white yellow")
ANIMALS = listed("""
bear cat cow dog dolphin donkey duck elephant fox goat horse koala lion owl panda penguin rabbit tiger
""")

WEEKDAYS = listed("Monday Tuesday Wednesday Thursday Friday Saturday Sunday")
MONTHS = listed("January February March April May June July August September October November December")
MONTH_DAYS = (31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)

TOPICS = listed(
    """
algebra, ancient Greece, bees, black holes, bread baking, bridges, cathedrals, chess openings, climate
change, coffee, comets, compilers, cooking pasta, deep sea fish, democracy, dinosaurs, DNA, earthquakes,
electric cars, film music, football, gardening, glaciers, gravity, jazz, knitting, lighthouses, love,
machine learning, magnetism, Mars, medicine, mountains, old films, opera, operating systems, painting,
penguins, philosophy, photosynthesis, poetry, Python, quantum physics, railways, robots, Rust, sailing,
Shakespeare, the Middle Ages, the moon landing, the ozone layer, the Roman empire, the stock market, tides,
vaccines, volcanoes, whales, yoga
""",
    ",",
)

_PAIRS = listed("""
hot/cold big/small fast/slow high/low light/heavy bright/dark open/closed full/empty early/late old/new
rich/poor happy/sad strong/weak hard/soft wet/dry clean/dirty loud/quiet long/short wide/narrow thick/thin
deep/shallow up/down left/right inside/outside before/after first/last day/night north/south east/west
summer/winter true/false right/wrong good/bad young/elderly love/hate win/lose buy/sell push/pull
start/finish remember/forget arrive/depart above/below near/far sharp/blunt smooth/rough sweet/bitter
tall/tiny cheap/expensive easy/difficult brave/cowardly alive/dead asleep/awake
""")
OPPOSITES = {left: right for left, _, right in (pair.partition("/") for pair in _PAIRS)}

_ONSETS = listed("b c d f g h j k l m n p r s t v w z br cl cr dr fl gr pl sl sn sp st tr")
_VOWELS = listed("a e i o u a e i o u ai ea oo")
_CODAS = ["", "", "", "l", "m", "n", "r", "s", "t", "nd", "rk", "st"]


def invented(rng: random.Random) -> str:
    """Return a pronounceable word that means nothing."""
    syllables = rng.choice((1, 2, 2, 3))
    return "".join(rng.choice(_ONSETS) + rng.choice(_VOWELS) + rng.choice(_CODAS) for _ in range(syllables))


def word(rng: random.Random) -> str:
    """Return an everyday word, or now and then an invented one."""
    return rng.choice(EVERYDAY) if rng.random() < 0.65 else invented(rng)


def number(rng: random.Random, digits: int) -> int:
    """Return a number of exactly `digits` digits; a single digit may be 0."""
    return rng.randrange(10 ** (digits - 1) if digits > 1 else 0, 10**digits)


def quoted(rng: random.Random, text: str) -> str:
    """Return `text` bare or between quotation marks."""
    return rng.choice((text, text, f'"{text}"', f"'{text}'"))
