"""WordNet for METEOR's synonyms: where its database is on this machine, and nltk's reader of it.

Nothing is downloaded. The database is nltk's own (`corpora/wordnet` on `nltk.data.path`) or the one that Debian and its
relatives package as `wordnet-base`, which lacks two files that nltk asks for: `lexnames`, a fixed list, is given here,
and `index.sense` serves only other languages.
"""

from __future__ import annotations

import io
import os
import warnings
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from ..errors import MissingDependencyError

VARIABLE = "MEMLORA_WORDNET"
"""The environment variable that names the folder of a database."""
DEBIAN = Path("usr/share/wordnet")
"""Where the files of `wordnet-base` lie, below the root or whatever folder the package was unpacked into."""

_ADVICE = (
    "Install it (apt-get install wordnet-base), or unpack it anywhere (apt-get download wordnet-base && "
    f"dpkg -x wordnet-base_*.deb FOLDER) and set {VARIABLE} to that folder."
)
_POS = ("adj", "adv", "noun", "verb")
_FILES = tuple(f"{kind}.{pos}" for kind in ("data", "index") for pos in _POS) + tuple(f"{pos}.exc" for pos in _POS)
_LEXNAMES = (
    "adj.all adj.pert adv.all noun.Tops noun.act noun.animal noun.artifact noun.attribute noun.body noun.cognition "
    "noun.communication noun.event noun.feeling noun.food noun.group noun.location noun.motive noun.object noun.person "
    "noun.phenomenon noun.plant noun.possession noun.process noun.quantity noun.relation noun.shape noun.state "
    "noun.substance noun.time verb.body verb.change verb.cognition verb.communication verb.competition "
    "verb.consumption verb.contact verb.creation verb.emotion verb.motion verb.perception verb.possession verb.social "
    "verb.stative verb.weather adj.ppl"
)


def find(folder: str | os.PathLike[str] | None = None) -> Any:
    """Where WordNet's database is: a folder as str, or nltk's pointer into its own data.

    `folder` is the database's folder, or one that Debian's package was unpacked into; without it
    `$MEMLORA_WORDNET`, and without that nltk's data and `/usr/share/wordnet`, in this order.

    Raises:
        MissingDependencyError: nltk is not installed; no database at the place that was named, or none anywhere. Of a
            path, it tells the last part only.
    """
    try:
        import nltk  # type: ignore[import-untyped]
    except ImportError as error:
        raise MissingDependencyError('METEOR needs nltk: pip install "memlora-plugins[eval]"') from error

    named = folder if folder is not None else os.environ.get(VARIABLE) or None
    if named is not None:
        places = [Path(named).expanduser(), Path(named).expanduser() / DEBIAN]
        whole = next((place for place in places if _is_whole(place)), None)
        if whole is None:
            raise MissingDependencyError(f"No WordNet database (data.noun, …) in {Path(named).name!r}. {_ADVICE}")
        return str(whole.resolve())
    for resource in ("corpora/wordnet", "corpora/wordnet.zip/wordnet/"):
        try:
            return nltk.data.find(resource)
        except LookupError:
            continue
    if _is_whole(Path("/") / DEBIAN):
        return str(Path("/") / DEBIAN)
    raise MissingDependencyError(f"WordNet is not on this machine. {_ADVICE}")


def open_wordnet(folder: str | os.PathLike[str] | None = None) -> Any:
    """nltk's `WordNetCorpusReader` of the database at `folder` (see `find`), for English. For one thread; close it.

    A folder that is used joins `nltk.data.path`: nltk reads nothing outside the places listed there.

    Raises:
        MissingDependencyError: as `find`, or the files cannot be read or are no WordNet.
    """
    place = find(folder)
    name = Path(str(place)).name  # reports quote the errors: nothing but the last part

    import nltk
    from nltk.corpus.reader.wordnet import (  # type: ignore[import-untyped]
        WordNetCorpusReader,
        WordNetError,
    )

    opened = ExitStack()

    class Reader(WordNetCorpusReader):  # type: ignore[misc]
        def open(self, file: str) -> Any:
            if file == "lexnames":
                rows = enumerate(_LEXNAMES.split())
                return io.StringIO("".join(f"{number:02}\t{name}\t0\n" for number, name in rows))
            return opened.enter_context(super().open(file))

        def map_wn(self, version: str = "wordnet") -> None:
            """Other languages are not read, so that nothing has to be mapped to the version that they know."""

        def close(self) -> None:
            opened.close()

    if isinstance(place, str) and place not in nltk.data.path:
        nltk.data.path.append(place)
    with opened:
        try:
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", "The multilingual functions", UserWarning)
                reader = Reader(place, None)
            known = reader.synsets("memory")
        except (OSError, LookupError, ValueError, AssertionError, AttributeError, WordNetError) as error:
            why = type(error).__name__  # its words may hold whole paths
            raise MissingDependencyError(f"WordNet in {name!r} cannot be read ({why}). {_ADVICE}") from error
        if not known:
            raise MissingDependencyError(f"WordNet in {name!r} has no words. {_ADVICE}")
        opened = opened.pop_all()  # stays open
    return reader


def _is_whole(place: Path) -> bool:
    return all((place / name).is_file() for name in _FILES)
