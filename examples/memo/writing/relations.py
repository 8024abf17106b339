"""The kinds of facts that the corpus tells, and every wording of them: in documents, in training, and held out.

`{x}` is what a fact is about, `{v}` what it says of it. `asked` are direct questions, `indirect` those that need a step
of thought; `clauses` describe x by v, after "Which … ". What begins with `held_out` is never seen in training.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, eq=False)
class Relation:
    """One kind of fact about a person, a town, an organisation or a work."""

    name: str
    about: str
    told: tuple[str, ...]
    asked: tuple[str, ...]
    indirect: tuple[str, ...]
    clauses: tuple[str, ...]
    noun: str
    held_out: tuple[str, ...]
    held_out_clause: str


def _relation(name: str, about: str, noun: str, **wordings: str) -> Relation:
    parts = {key: tuple(line.strip() for line in text.strip().splitlines()) for key, text in wordings.items()}
    return Relation(
        name=name,
        about=about,
        noun=noun,
        told=parts["told"],
        asked=parts["asked"],
        indirect=parts["indirect"],
        clauses=parts["clauses"],
        held_out=parts["held_out"],
        held_out_clause=parts["held_out_clause"][0],
    )


RELATIONS: dict[str, Relation] = {
    one.name: one
    for one in (
        _relation(
            "born_year",
            "person",
            "year of birth",
            told="{x} was born in {v}.\n{x} came into the world in {v}.\nThe year of {x}'s birth was {v}.",
            asked="""When was {x} born?
            In what year was {x} born?
            What is {x}'s year of birth?
            Which year did {x} come into the world?
            {x} was born in which year?
            What year marks the birth of {x}?
            Tell me the year in which {x} was born.""",
            indirect="From which year on would one count the age of {x}?\nWhose birth year is it: what year for {x}?",
            clauses="was born in {v}\ncame into the world in {v}",
            held_out="What was the birth year of {x}?\nDo you know which year {x} was born in?",
            held_out_clause="has {v} as year of birth",
        ),
        _relation(
            "born_in",
            "person",
            "place of birth",
            told="{x} comes from {v}.\nThe town where {x} was born is {v}.\n{x} is a native of {v}.",
            asked="""Where was {x} born?
            In which town was {x} born?
            What is {x}'s place of birth?
            Which town is the birthplace of {x}?
            Where does {x} come from?
            {x} is a native of which town?
            What town does {x} come from?""",
            indirect="Which town can call {x} its child?\nWhich town would {x} name as home town?",
            clauses="comes from {v}\nis a native of {v}",
            held_out="What was the town of {x}'s birth?\nFrom which town does {x} come?",
            held_out_clause="has {v} as birthplace",
        ),
        _relation(
            "lives_in",
            "person",
            "home",
            told="Today {x} lives in {v}.\n{x} has a house in {v} now.\nThe home of {x} is in {v}.",
            asked="""Where does {x} live?
            In which town does {x} live today?
            What town is {x}'s home now?
            Where is the house of {x}?
            {x} lives in which town?
            Where has {x} settled?
            Which town does {x} live in?""",
            indirect="To which town would a letter to {x} go?\nWhere would you knock at the door of {x}?",
            clauses="lives in {v}\nhas a house in {v}",
            held_out="Where is {x}'s home?\nWhat town does {x} live in nowadays?",
            held_out_clause="has made a home in {v}",
        ),
        _relation(
            "studied",
            "person",
            "school",
            told="{x} studied at {v}.\nThe years of study were spent at {v}.\n{x} was a student of {v}.",
            asked="""Where did {x} study?
            At which school did {x} study?
            What school was {x} a student of?
            Which school did {x} attend?
            {x} studied at which school?
            Where was {x} a student?
            What is the school of {x}?""",
            indirect="Which school has {x} among its former students?\nWhose lecture halls did {x} sit in?",
            clauses="studied at {v}\nwas a student of {v}",
            held_out="Which school was it where {x} studied?\nWhat school did {x} go to?",
            held_out_clause="attended {v}",
        ),
        _relation(
            "teacher",
            "person",
            "teacher",
            told="{v} taught {x} the craft.\nThe teacher of {x} was {v}.\n{x} learned from {v}.",
            asked="""Who taught {x}?
            Who was {x}'s teacher?
            From whom did {x} learn?
            Whose pupil was {x}?
            By whom was {x} taught?
            {x} learned from whom?
            Who was the teacher of {x}?""",
            indirect="Whom would {x} thank for the lessons?\nWho passed the craft on to {x}?",
            clauses="learned from {v}\nwas taught by {v}",
            held_out="Which teacher did {x} have?\nWho gave {x} lessons?",
            held_out_clause="was a pupil of {v}",
        ),
        _relation(
            "pastime",
            "person",
            "pastime",
            told="Away from work, {x} enjoys {v}.\nThe pastime of {x} is {v}.\nOn free days {x} is found {v}.",
            asked="""What does {x} enjoy away from work?
            What is {x}'s pastime?
            What does {x} do on free days?
            How does {x} spend free time?
            Which pastime does {x} have?
            What does {x} do for pleasure?
            What is the hobby of {x}?""",
            indirect="What would you find {x} doing on a Sunday?\nWhat makes {x} forget about work?",
            clauses="enjoys {v}\nspends free time {v}",
            held_out="Which hobby does {x} enjoy?\nWhat does {x} like to do in free time?",
            held_out_clause="has {v} as a hobby",
        ),
        _relation(
            "boat",
            "person",
            "boat",
            told="{x} sails a boat called the {v}.\nThe boat of {x} is the {v}.\n{x} owns a boat, the {v}.",
            asked="""What is {x}'s boat called?
            What is the name of {x}'s boat?
            Which boat does {x} own?
            What boat does {x} sail?
            How is the boat of {x} named?
            {x} owns which boat?
            Which boat belongs to {x}?""",
            indirect="Which name would you look for at the mooring of {x}?\nOn which boat would {x} take you out?",
            clauses="owns the boat {v}\nsails the {v}",
            held_out="What name did {x} give the boat?\nWhich boat is {x}'s?",
            held_out_clause="is the owner of the boat {v}",
        ),
        _relation(
            "anchor",
            "person",
            "year of the Silver Anchor",
            told="In {v} {x} received the Silver Anchor.\nThe Silver Anchor went to {x} in {v}.\n"
            "{x} was given the Silver Anchor in {v}.",
            asked="""When did {x} receive the Silver Anchor?
            In what year did {x} win the Silver Anchor?
            Which year did the Silver Anchor go to {x}?
            When was {x} given the Silver Anchor?
            In which year was the Silver Anchor awarded to {x}?
            {x} received the Silver Anchor in which year?
            What year did {x} get the Silver Anchor?""",
            indirect="Which year stands on the Silver Anchor of {x}?\nSince when may {x} wear the Silver Anchor?",
            clauses="received the Silver Anchor in {v}\nwas given the Silver Anchor in {v}",
            held_out="What was the year of {x}'s Silver Anchor?\nWhen was the Silver Anchor won by {x}?",
            held_out_clause="won the Silver Anchor in {v}",
        ),
        _relation(
            "river",
            "town",
            "river",
            told="{x} lies on the river {v}.\nThe river {v} flows through {x}.\nThe houses of {x} stand along the {v}.",
            asked="""Which river flows through {x}?
            On which river does {x} lie?
            What river is {x} on?
            What is the river of {x} called?
            {x} lies on which river?
            What is the name of the river in {x}?
            Which river runs through {x}?""",
            indirect="Which river would carry a leaf out of {x}?\nWhich water do the bridges of {x} cross?",
            clauses="lies on the river {v}\nstands along the {v}",
            held_out="What river would you find in {x}?\nWhich river is {x} built on?",
            held_out_clause="has the river {v}",
        ),
        _relation(
            "town_founded",
            "town",
            "year of foundation",
            told="{x} was founded in {v}.\nThe town charter of {x} dates from {v}.\n{x} has been a town since {v}.",
            asked="""When was {x} founded?
            In what year was the town of {x} founded?
            From which year does the charter of {x} date?
            Since when has {x} been a town?
            {x} has been a town since which year?
            What year was {x} founded in?
            How old is the charter of {x}: which year?""",
            indirect="Which year does {x} celebrate as its beginning?\nWhich year stands above the gate of {x}?",
            clauses="was founded in {v}\nhas been a town since {v}",
            held_out="What is the founding year of the town of {x}?\nWhich year was the town of {x} founded in?",
            held_out_clause="has a charter of {v}",
        ),
        _relation(
            "mayor",
            "town",
            "mayor",
            told="The mayor of {x} is {v}.\n{v} is mayor of {x}.\n{x} elected {v} as mayor.",
            asked="""Who is the mayor of {x}?
            Who is mayor in {x}?
            What is the name of {x}'s mayor?
            Whom did {x} elect as mayor?
            Which person is mayor of {x}?
            By whom is {x} governed?
            Who governs the town of {x}?""",
            indirect="Whose signature stands under the orders of {x}?\nWho would welcome a guest of honour to {x}?",
            clauses="has {v} as mayor\nelected {v}",
            held_out="Who serves {x} as mayor?\nWhat is the mayor of {x} called?",
            held_out_clause="is governed by the mayor {v}",
        ),
        _relation(
            "product",
            "town",
            "product",
            told="{x} is known for its {v}.\nThe {v} of {x} is sold all over the isles.\n{x} lives from its {v}.",
            asked="""What is {x} known for?
            Which product is {x} known for?
            What is made in {x}?
            What does {x} sell all over the isles?
            From what does {x} live?
            What product comes from {x}?
            For what is {x} famous?""",
            indirect="What would a visitor bring home from {x}?\nWhat do the merchants of {x} load onto their ships?",
            clauses="is known for its {v}\nlives from its {v}",
            held_out="What product made {x} famous?\nWhich goods is {x} known for?",
            held_out_clause="is famous for its {v}",
        ),
        _relation(
            "landmark",
            "town",
            "landmark",
            told="The landmark of {x} is the {v}.\nAbove {x} rises the {v}.\nEvery picture of {x} shows the {v}.",
            asked="""What is the landmark of {x}?
            Which landmark does {x} have?
            What rises above {x}?
            What does every picture of {x} show?
            What is {x}'s landmark called?
            Which building rises above {x}?
            By which landmark is {x} known?""",
            indirect="What would you see first when you come to {x}?\nWhat would a postcard from {x} show?",
            clauses="has the {v} as its landmark\nlies below the {v}",
            held_out="Which landmark would you look for in {x}?\nWhat is the landmark called that rises in {x}?",
            held_out_clause="is overlooked by the {v}",
        ),
        _relation(
            "market_day",
            "town",
            "market day",
            told="Market day in {x} is {v}.\n{x} holds its market on {v}.\nOn {v} the market of {x} opens.",
            asked="""On which day is the market in {x}?
            When is market day in {x}?
            Which day is market day in {x}?
            What day does {x} hold its market?
            On what day does the market of {x} open?
            {x} has its market on which day?
            What is the market day of {x}?""",
            indirect="On which day should a farmer drive to {x}?\nOn which day are the streets of {x} full of stalls?",
            clauses="holds its market on {v}\nhas its market day on {v}",
            held_out="Which day of the week is the market of {x}?\nWhen does {x} have its market?",
            held_out_clause="opens its market on {v}",
        ),
        _relation(
            "population",
            "town",
            "number of inhabitants",
            told="{x} has {v} inhabitants.\n{v} people live in {x}.\nThe last count found {v} people in {x}.",
            asked="""How many inhabitants does {x} have?
            How many people live in {x}?
            What is the population of {x}?
            How large is {x}, in inhabitants?
            How many people did the last count find in {x}?
            What is the number of inhabitants of {x}?
            {x} is home to how many people?""",
            indirect="""How many loaves would feed all of {x}, one each?
            How many names would a list of all of {x} hold?""",
            clauses="has {v} inhabitants\nis home to {v} people",
            held_out="What number of people live in {x}?\nHow many inhabitants were counted in {x}?",
            held_out_clause="counts {v} people",
        ),
        _relation(
            "festival",
            "town",
            "festival",
            told="""Once a year {x} celebrates the {v}.
            The festival of {x} is the {v}.
            Guests come to {x} for the {v}.""",
            asked="""Which festival does {x} celebrate?
            What is the festival of {x} called?
            What does {x} celebrate once a year?
            For which festival do guests come to {x}?
            What festival is held in {x}?
            What is the name of {x}'s festival?
            Which festival takes place in {x}?""",
            indirect="For what do the people of {x} dress up once a year?\nWhich feast fills the inns of {x}?",
            clauses="celebrates the {v}\nholds the festival called {v}",
            held_out="What is celebrated in {x} each year?\nWhat festival would one visit in {x}?",
            held_out_clause="is where the {v} takes place",
        ),
        _relation(
            "org_founded",
            "organisation",
            "year of foundation",
            told="{x} was founded in {v}.\n{x} has existed since {v}.\nThe work of {x} began in {v}.",
            asked="""When was {x} founded?
            In what year was {x} founded?
            Since when has {x} existed?
            Which year did the work of {x} begin?
            What year was {x} founded in?
            {x} has existed since which year?
            When did {x} begin its work?""",
            indirect="""Which year is on the first page of the books of {x}?
            From which year does {x} count its birthdays?""",
            clauses="was founded in {v}\nhas existed since {v}",
            held_out="What is the founding year of {x}?\nDo you know the year {x} was founded?",
            held_out_clause="began its work in {v}",
        ),
        _relation(
            "founder",
            "organisation",
            "founder",
            told="{x} was founded by {v}.\nIt was {v} who founded {x}.\nThe founder of {x} is {v}.",
            asked="""Who founded {x}?
            By whom was {x} founded?
            Who is the founder of {x}?
            What is the name of the founder of {x}?
            Which person founded {x}?
            Who was it that founded {x}?
            To whom does {x} owe its foundation?""",
            indirect="Without whom would {x} not exist?\nWhose idea was {x}?",
            clauses="was founded by {v}\nhas {v} as founder",
            held_out="Which founder does {x} have?\nWho set {x} up as its founder?",
            held_out_clause="owes its foundation to {v}",
        ),
        _relation(
            "seat",
            "organisation",
            "seat",
            told="{x} has its seat in {v}.\n{x} is based in {v}.\nThe offices of {x} are in {v}.",
            asked="""Where is {x} based?
            In which town does {x} have its seat?
            Where are the offices of {x}?
            What town is {x} based in?
            Where does {x} have its seat?
            {x} has its offices in which town?
            Which town is the seat of {x}?""",
            indirect="To which town would you travel to visit {x}?\nIn which town would you look for the door of {x}?",
            clauses="has its seat in {v}\nis based in {v}",
            held_out="What town would you find {x} in?\nIn what town are the offices of {x}?",
            held_out_clause="has offices in {v}",
        ),
        _relation(
            "head",
            "organisation",
            "director",
            told="{v} directs {x}.\nThe director of {x} is {v}.\nAt the head of {x} stands {v}.",
            asked="""Who directs {x}?
            Who is the director of {x}?
            Who stands at the head of {x}?
            By whom is {x} directed?
            What is the name of the director of {x}?
            Who leads {x}?
            Which person directs {x}?""",
            indirect="Who has the last word at {x}?\nWhose desk is the largest at {x}?",
            clauses="is directed by {v}\nhas {v} as director",
            held_out="Who is at the head of {x}?\nWhich director does {x} have?",
            held_out_clause="is led by {v}",
        ),
        _relation(
            "purpose",
            "organisation",
            "task",
            told="{x} exists for {v}.\nThe task of {x} is {v}.\nThe work of {x} is {v}.",
            asked="""What is the task of {x}?
            What does {x} exist for?
            What is the work of {x}?
            Which task does {x} have?
            What is {x} there for?
            For what was {x} made?
            What work does {x} do?""",
            indirect="What would be left undone without {x}?\nWhat do the people at {x} do all day?",
            clauses="exists for {v}\nhas the task of {v}",
            held_out="What is the task that {x} exists for?\nWhich work is done by {x}?",
            held_out_clause="is there for {v}",
        ),
        _relation(
            "emblem",
            "organisation",
            "emblem",
            told="The emblem of {x} is a {v}.\n{x} carries a {v} in its emblem.\nOn the flag of {x} there is a {v}.",
            asked="""What is the emblem of {x}?
            What does {x} carry in its emblem?
            What is on the flag of {x}?
            Which emblem does {x} have?
            What does the emblem of {x} show?
            {x} has what in its emblem?
            What can be seen on the flag of {x}?""",
            indirect="What would you look for to find the flag of {x}?\nWhat is stamped on every letter of {x}?",
            clauses="has a {v} as its emblem\ncarries a {v} on its flag",
            held_out="What would you see in the emblem of {x}?\nWhat is shown on {x}'s flag?",
            held_out_clause="shows a {v} in its emblem",
        ),
        _relation(
            "staff",
            "organisation",
            "number of people at work",
            told="{v} people work for {x}.\n{x} employs {v} people.\n{x} has a staff of {v}.",
            asked="""How many people work for {x}?
            How many people does {x} employ?
            How large is the staff of {x}?
            What is the number of people at work in {x}?
            {x} employs how many people?
            How big is the staff at {x}?
            How many employees does {x} have?""",
            indirect="How many chairs would seat all of {x}?\nHow many pay packets does {x} hand out?",
            clauses="employs {v} people\nhas a staff of {v}",
            held_out="What is the size of the staff of {x}?\nHow many people are employed by {x}?",
            held_out_clause="gives work to {v} people",
        ),
        _relation(
            "funded_by",
            "organisation",
            "source of money",
            told="{x} is paid for by {v}.\nThe money of {x} comes from {v}.\n{v} funds {x}.",
            asked="""Who pays for {x}?
            Who funds {x}?
            Where does the money of {x} come from?
            By whom is {x} funded?
            What is the source of money of {x}?
            {x} is paid for by whom?
            Whose money keeps {x} going?""",
            indirect="Whom must {x} send its accounts to?\nWho would have to save if {x} spent too much?",
            clauses="is funded by {v}\nis paid for by {v}",
            held_out="Who gives {x} its money?\nFrom whom does {x} get its funds?",
            held_out_clause="gets its money from {v}",
        ),
        _relation(
            "made_by",
            "work",
            "maker",
            told="{x} was made by {v}.\n{x} is a work of {v}.\n{v} created {x}.",
            asked="""Who made {x}?
            Who created {x}?
            By whom was {x} made?
            Whose work is {x}?
            {x} is a work of whom?
            Who is the maker of {x}?
            Which person created {x}?""",
            indirect="Whose name is signed on {x}?\nWhose hands brought {x} into being?",
            clauses="was made by {v}\nis a work of {v}",
            held_out="Which maker created {x}?\nWho was {x} created by?",
            held_out_clause="was created by {v}",
        ),
        _relation(
            "made_year",
            "work",
            "year of completion",
            told="{x} was finished in {v}.\nThe year of {x} is {v}.\nWork on {x} ended in {v}.",
            asked="""When was {x} finished?
            In what year was {x} finished?
            When did work on {x} end?
            What is the year of {x}?
            Which year was {x} completed in?
            {x} was finished in which year?
            What year did the work on {x} end?""",
            indirect="How old is {x}: from which year?\nWhich date is written below {x}?",
            clauses="was finished in {v}\nwas completed in {v}",
            held_out="What was the year {x} was finished in?\nWhich year saw {x} completed?",
            held_out_clause="dates from {v}",
        ),
        _relation(
            "kept_in",
            "work",
            "place",
            told="{x} is kept in {v}.\nToday {x} can be found in {v}.\n{v} is where {x} is kept.",
            asked="""Where is {x} kept?
            In which town is {x}?
            Where can {x} be found today?
            Which town keeps {x}?
            {x} is kept in which town?
            Where would one find {x}?
            In what town is {x} kept?""",
            indirect="Which town would a lover of {x} travel to?\nWhich town would grieve the loss of {x} most?",
            clauses="is kept in {v}\ncan be found in {v}",
            held_out="What town is {x} kept in?\nWhere is {x} to be found?",
            held_out_clause="has its place in {v}",
        ),
        _relation(
            "subject",
            "work",
            "subject",
            told="{x} is about {v}.\nThe subject of {x} is {v}.\n{x} tells of {v}.",
            asked="""What is {x} about?
            What is the subject of {x}?
            Of what does {x} tell?
            What does {x} tell of?
            Which subject does {x} have?
            {x} is about what?
            What is told in {x}?""",
            indirect="What would you think of in front of {x}?\nWhat moved its maker to begin {x}?",
            clauses="is about {v}\ntells of {v}",
            held_out="Which subject is {x} about?\nWhat is it that {x} tells of?",
            held_out_clause="has {v} as its subject",
        ),
        _relation(
            "dedicated",
            "work",
            "dedication",
            told="{x} is dedicated to {v}.\nThe dedication of {x} names {v}.\nIts maker dedicated {x} to {v}.",
            asked="""To whom is {x} dedicated?
            Who is named in the dedication of {x}?
            To whom did its maker dedicate {x}?
            Whom does the dedication of {x} name?
            {x} is dedicated to whom?
            For whom was {x} made?
            Whose name is in the dedication of {x}?""",
            indirect="Who must have been moved to be given {x}?\nWhom did the maker of {x} want to thank?",
            clauses="is dedicated to {v}\nnames {v} in its dedication",
            held_out="Who has {x} been dedicated to?\nWhich person does the dedication of {x} name?",
            held_out_clause="carries a dedication to {v}",
        ),
        _relation(
            "price",
            "work",
            "cost",
            told="{x} cost {v} crowns.\nFor {x}, {v} crowns were paid.\nThe price of {x} was {v} crowns.",
            asked="""How many crowns did {x} cost?
            What did {x} cost, in crowns?
            What was the price of {x}?
            How much was paid for {x}?
            {x} cost how many crowns?
            How many crowns were paid for {x}?
            What was the cost of {x}?""",
            indirect="How full a purse did one need to buy {x}?\nWhich sum is on the bill for {x}?",
            clauses="cost {v} crowns\nwas paid for with {v} crowns",
            held_out="What sum of crowns did {x} cost?\nWhich price was paid for {x}?",
            held_out_clause="had a price of {v} crowns",
        ),
    )
}
