"""What stands in the slots of the templates: large open pools of values, some of them kept for the tests.

Half of the names are real ones, half are invented from syllables, so that a model has to copy what it reads and cannot
know it by heart. One value in six, chosen by its hash, is *held out*: it never fills a slot of a
training text.
"""

from __future__ import annotations

import random
import zlib
from collections.abc import Callable, Mapping, Sequence

_HELD_OUT = 6  # one value in so many

_WOMEN = """
Ana Maria Sofia Inês Camille Léa Chloé Giulia Chiara Francesca Ingrid Astrid Freya Saga Aino Helmi Olga Irina Katya
Natasha Zofia Agnieszka Magda Ewa Jana Petra Lenka Mira Vesna Ivana Elif Zeynep Aylin Leila Yasmin Noor Fatima Aisha
Mariam Amina Zainab Priya Ananya Kavya Divya Meera Lakshmi Sunita Mei Ling Xiu Yuki Sakura Haruka Aiko Hana Minji
Soyeon Linh Thuy Mai Nok Siti Dewi Putri Wanjiru Achieng Nala Thandi Zanele Amara Chioma Ngozi Abena Efua Marisol
Lucía Carmen Pilar Rocío Ximena Valentina Camila Isabela Beatriz Luana Emma Olivia Charlotte Amelia Grace Alice Ruby
Daisy Hazel Violet Ivy Nora Maeve Siobhan Aoife Niamh Rhiannon Cerys Fiona Isla Morag Greta Anneliese Heike Ursula
Saskia Femke Marijke Lotte Dagny Solveig Ragnhild Eleni Despina Katerina Rosalie Margot Odette Colette Delphine Esther
Miriam Tamar Shira Naomi Judith Harriet Beatrix Cordelia Imogen Tabitha Winifred Marguerite Paloma Jacinta Blanca
""".split()
_MEN = """
João Tomás Rui Diogo Luca Matteo Davide Pietro Marco Pierre Antoine Julien Thibault Rémi Lars Erik Magnus Nils Aksel
Mikko Eero Juhani Dmitri Sergei Pavel Anton Oleg Piotr Tomasz Jakub Marek Ondřej Jiří Luka Marko Goran Dragan Emre Can
Mehmet Burak Omar Karim Youssef Hassan Tariq Bilal Ibrahim Khalil Rahul Arjun Vikram Sanjay Rohan Anil Wei Jun Bo Hiro
Kenji Takeshi Daichi Ren Minho Jiho Sungmin Quang Duc Anan Budi Agus Kamau Otieno Sipho Thabo Kwame Kofi Emeka Obinna
Tunde Mateo Santiago Diego Javier Álvaro Gonzalo Rafael Thiago Caio Leonardo Jack Oliver George Henry Arthur Theo Felix
Oscar Hugo Leo Max Ben Sam Toby Callum Rory Ewan Alasdair Owen Rhys Gareth Declan Cormac Fergus Eoin Klaus Jürgen
Matthias Stefan Uwe Joost Pieter Bram Sander Gunnar Sven Nikos Kostas Yannis Benoît Étienne Gilles Marcel Isaac Ezra
Noah Eitan Caspian Barnaby Percival Ignatius Leopold Rupert Cedric Desmond Winston Clarence Horatio Bertrand Anselmo
""".split()
_SURNAMES = """
Almeida Carvalho Ferreira Rossi Bianchi Moretti Dubois Lefèvre Girard Schmidt Becker Vogel Krause Lindqvist Bergström
Hansen Nygaard Virtanen Korhonen Petrov Volkov Sokolov Kowalski Nowak Zielinski Novák Dvořák Horvat Popescu Ionescu
Yılmaz Demir Haddad Mansour Nasser Sharma Patel Iyer Banerjee Chowdhury Chen Zhang Huang Tanaka Sato Nakamura Kim Park
Nguyen Tran Santoso Mwangi Odhiambo Dlamini Nkosi Mensah Okafor Adeyemi Garcia Herrera Castillo Navarro Quispe Silva
Barbosa Smith Whitaker Holloway Ashworth Pemberton Fairfax O'Brien Gallagher MacLeod Llewellyn Papadakis Goldberg
Rosenthal Van der Meer De Vries Jansen Eriksen Blackwood Thornton Underhill Winterbourne Castellano Marchetti Delacroix
""".replace("Van der Meer De Vries", "Vandermeer Devries").split()
_CITIES = """
Lisbon Porto Braga Faro Madrid Seville Bilbao Granada Valencia Paris Lyon Nantes Toulouse Lille Rome Milan Turin
Bologna Palermo Naples Berlin Hamburg Leipzig Cologne Munich Dresden Vienna Graz Salzburg Zurich Geneva Basel Bern
Amsterdam Utrecht Rotterdam Groningen Brussels Ghent Antwerp Copenhagen Aarhus Odense Oslo Bergen Trondheim Stockholm
Gothenburg Malmö Uppsala Helsinki Tampere Turku Tallinn Tartu Riga Vilnius Kaunas Warsaw Kraków Gdańsk Wrocław Poznań
Prague Brno Ostrava Bratislava Budapest Szeged Ljubljana Zagreb Split Belgrade Sarajevo Skopje Sofia Plovdiv Bucharest
Cluj Athens Thessaloniki Patras Istanbul Ankara Izmir Antalya Beirut Amman Cairo Alexandria Tunis Rabat Fez Marrakesh
Dakar Accra Lagos Abuja Nairobi Mombasa Kampala Kigali Lusaka Harare Gaborone Windhoek Maputo Johannesburg Durban
Tbilisi Yerevan Baku Tehran Shiraz Mumbai Pune Chennai Kochi Kolkata Jaipur Delhi Colombo Kathmandu Dhaka Bangkok Hanoi
Hue Penang Singapore Jakarta Bandung Manila Cebu Taipei Seoul Busan Incheon Tokyo Osaka Kyoto Sapporo Fukuoka Nagoya
Sydney
Melbourne Perth Adelaide Brisbane Hobart Auckland Wellington Dunedin Toronto Montreal Vancouver Halifax Winnipeg Boston
Chicago Denver Seattle Portland Austin Houston Atlanta Nashville Detroit Cleveland Phoenix Tucson Omaha Memphis Havana
Bogotá Medellín Cali Quito Cuenca Lima Cusco Arequipa Santiago Valparaíso Mendoza Córdoba Rosario Montevideo
Salvador Recife Curitiba London Manchester Leeds Bristol Cardiff Swansea Glasgow Edinburgh Dundee Aberdeen Belfast
Dublin Cork Galway Limerick Sheffield Norwich Exeter Plymouth York Durham Reykjavik Akureyri Valletta Nicosia
""".split()
_COUNTRIES = """
Portugal Spain France Italy Germany Austria Switzerland Belgium Denmark Norway Sweden Finland Estonia Latvia Lithuania
Poland Slovakia Hungary Slovenia Croatia Serbia Bosnia Albania Bulgaria Romania Greece Turkey Lebanon Jordan Egypt
Tunisia Morocco Senegal Ghana Nigeria Kenya Uganda Rwanda Zambia Zimbabwe Botswana Namibia Mozambique Georgia Armenia
Azerbaijan Iran India Nepal Bangladesh Thailand Vietnam Laos Cambodia Malaysia Indonesia Taiwan Korea Japan Mongolia
Australia Canada Mexico Guatemala Belize Honduras Nicaragua Panama Cuba Jamaica Colombia Ecuador Peru Bolivia Chile
Argentina Uruguay Paraguay Brazil Iceland Ireland Scotland Wales Malta Cyprus Madagascar Mauritius Oman Qatar Bhutan
Kazakhstan Uzbekistan Ethiopia Tanzania Angola Gabon Cameroon Fiji Samoa Tonga
""".split()
_PETS = """
Biscuit Miso Pepper Luna Milo Ziggy Waffles Mochi Nugget Pickle Pumpkin Shadow Rusty Bella Coco Simba Nacho Olive Peanut
Toffee Marble Cosmo Pixel Tofu Ginger Snowball Whiskers Bandit Scout Maple Hazelnut Sesame Dumpling Noodle Bramble
Thistle Cricket Domino Figaro Gizmo Juniper Loki Merlin Nimbus Pebbles Quincy Rascal Socks Tango Truffle Wasabi Yoshi
""".split()
_TITLE_ADJECTIVES = """
silent hidden golden broken distant crimson wandering forgotten electric hollow gentle winter burning paper glass last
second endless borrowed velvet salted restless quiet lonely northern painted stolen bitter secret drifting blue pale
""".split()
_TITLE_NOUNS = """
harbor orchard lantern river mountain garden kingdom station mirror letter island bridge forest clock shadow sparrow
engine window compass desert tide cathedral carnival staircase violin comet archive lighthouse meadow furnace anchor
labyrinth glacier teapot passenger cartographer beekeeper daughter thief winter summer monsoon canary parade orbit
""".split()
_PLACE_KINDS = "café bistro tavern bakery club house corner kitchen workshop gallery garden studio yard hall".split()
_FIRM_KINDS = "Labs Systems Logistics Foods Energy Works Partners Media Motors Health Bank Textiles Robotics".split()
_STREET_KINDS = "Street Road Lane Avenue Square Hill Row Park Alley Terrace".split()
_MONTHS = (
    "January February March April May June July August September October November December"
).split()  # fmt: skip
_WEEKDAYS = "Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split()
_NUMBERS = "two three four five six seven eight nine ten eleven twelve".split()

_ONSETS = "b br c ch cl d dr f fl g gr h j k kr l m n p pl qu r s sh sk sl st t th tr v w z".split()
_VOWELS = "a a e e i i o o u ai ea ei ia io oa ou".split()
_CODAS = ["", "", "", "l", "m", "n", "nd", "r", "rn", "s", "sk", "t", "x", "ck", "th"]


class Pools:
    """Draws values for slots. `more` are the relations' own pools."""

    def __init__(self, more: Mapping[str, Sequence[str]] | None = None) -> None:
        self._listed: dict[str, tuple[str, ...]] = {name: tuple(values) for name, values in (more or {}).items()}
        if twice := self._listed.keys() & _DRAWN.keys():
            raise ValueError(f"These pools exist twice: {sorted(twice)}.")
        self._known = frozenset(value for values in (*self._listed.values(), *_KNOWN) for value in values)
        self._held_out = frozenset(value for values in (*self._listed.values(), *_KNOWN) for value in _kept(values))

    @property
    def names(self) -> frozenset[str]:
        return frozenset(self._listed.keys() | _DRAWN.keys())

    @property
    def open(self) -> tuple[str, ...]:
        """The pools that hold values out."""
        return tuple(sorted(self.names - _CLOSED))

    def draw(self, rng: random.Random, pool: str, *, held_out: bool, avoid: frozenset[str] = frozenset()) -> str:
        """A value that is held out, or one that is not, and none of `avoid`.

        Pools too small to be learned by heart in any interesting way (months, numbers) hold nothing out.
        """
        for _ in range(2_000):
            value = self._any(rng, pool)
            if value not in avoid and (pool in _CLOSED or self.is_held_out(value) == held_out):
                return value
        raise ValueError(f"The pool {pool!r} has no further value with held_out={held_out}.")

    def is_held_out(self, value: str) -> bool:
        """Whether a value is kept for the tests."""
        return value in self._held_out if value in self._known else _hash(value) % _HELD_OUT == 0

    def _any(self, rng: random.Random, pool: str) -> str:
        if pool in self._listed:
            return rng.choice(self._listed[pool])
        return _DRAWN[pool](rng)


def _kept(values: Sequence[str]) -> list[str]:
    """The values that are kept for the tests: those with the lowest hashes."""
    return sorted(set(values), key=_hash)[: len(values) // _HELD_OUT]


def _hash(value: str) -> int:
    return zlib.crc32(value.casefold().encode())


def invented(rng: random.Random, syllables: tuple[int, ...] = (2, 2, 3)) -> str:
    """A word that nobody knows: "Plaren", "Thoskia"."""
    parts = [rng.choice(_ONSETS) + rng.choice(_VOWELS) for _ in range(rng.choice(syllables))]
    return ("".join(parts) + rng.choice(_CODAS)).capitalize()


def _known_or_invented(known: Sequence[str], share: float = 0.5) -> Callable[[random.Random], str]:
    return lambda rng: rng.choice(known) if rng.random() < share else invented(rng)


def _title(rng: random.Random) -> str:
    adjective, noun = rng.choice(_TITLE_ADJECTIVES).capitalize(), rng.choice(_TITLE_NOUNS).capitalize()
    other = rng.choice(_TITLE_NOUNS).capitalize()
    shapes = (
        f"The {adjective} {noun}",
        f"{adjective} {noun}",
        f"{noun} of {invented(rng)}",
        f"The {noun} and the {other}",
        invented(rng),
        f"{invented(rng)} {noun}",
    )
    return rng.choice(shapes)


def _place(rng: random.Random) -> str:
    word = rng.choice((invented(rng), rng.choice(_TITLE_NOUNS).capitalize()))
    return rng.choice((f"{word} {rng.choice(_PLACE_KINDS).capitalize()}", f"The {word}", word))


def _firm(rng: random.Random) -> str:
    word = rng.choice((invented(rng), rng.choice(_SURNAMES), rng.choice(_TITLE_NOUNS).capitalize()))
    return rng.choice((f"{word} {rng.choice(_FIRM_KINDS)}", word, f"{word} & {rng.choice(_SURNAMES)}"))


_PEOPLE = (*_WOMEN, *_MEN)
_KNOWN = (_WOMEN, _MEN, _SURNAMES, _CITIES, _COUNTRIES, _PETS)
_DRAWN: Mapping[str, Callable[[random.Random], str]] = {
    "name": _known_or_invented(_PEOPLE, 0.6),
    "woman": _known_or_invented(_WOMEN, 0.6),
    "man": _known_or_invented(_MEN, 0.6),
    "surname": _known_or_invented(_SURNAMES),
    "city": _known_or_invented(_CITIES, 0.6),
    "country": _known_or_invented(_COUNTRIES, 0.8),
    "company": _firm,
    "street": lambda rng: f"{rng.choice((invented(rng), rng.choice(_SURNAMES)))} {rng.choice(_STREET_KINDS)}",
    "title": _title,
    "pet": _known_or_invented(_PETS),
    "brand": lambda rng: invented(rng, (1, 2, 2, 3)),
    "place": _place,
    "number": lambda rng: rng.choice(_NUMBERS),
    "count": lambda rng: str(rng.randint(13, 90)),
    "year": lambda rng: str(rng.randint(1960, 2025)),
    "month": lambda rng: rng.choice(_MONTHS),
    "weekday": lambda rng: rng.choice(_WEEKDAYS),
    "clock": lambda rng: f"{rng.randint(1, 12)}{rng.choice(('', '', ':15', ':30', ':45'))} {rng.choice(('am', 'pm'))}",
    "day": lambda rng: f"{rng.randint(1, 28)} {rng.choice(_MONTHS)}",
}
_CLOSED = frozenset({"number", "count", "year", "month", "weekday", "clock", "day"})
