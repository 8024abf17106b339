"""Questions about images with answers of one word: a benchmark made of any folder, and metric V (MemLoRA, Section 3.3).

A large vision model writes the questions, a small one says which types of question are hard, and a student answers
them. Images are what Pillow can read, models are whatever takes images in `/v1/chat/completions`.

The tests do this with fake models that tell the colour of the image they are sent; no real vision model was measured.
LoCoMo's images are links in its files: to make the paper's benchmark, download them into one folder a split.
"""

from .images import Images, find_images
from .making import MakeOptions, amake, make
from .questions import PAPER_TYPES, TYPES, VqaQuestion, read_dataset
from .report import MakeReport, VqaReport
from .scoring import ascore, exact_word, score

__all__ = [
    "PAPER_TYPES",
    "TYPES",
    "Images",
    "MakeOptions",
    "MakeReport",
    "VqaQuestion",
    "VqaReport",
    "amake",
    "ascore",
    "exact_word",
    "find_images",
    "make",
    "read_dataset",
    "score",
]
