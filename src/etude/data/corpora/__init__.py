"""Corpora: where the rows of each split come from, as `etude.data.prepare.Corpus` describes."""

from etude.data.corpora.evaluated import EvaluatedFiles
from etude.data.corpora.files import ParallelFiles, Tables
from etude.data.corpora.interface import InterfaceTexts
from etude.data.corpora.labelled import Clinc150, LabelledLines
from etude.data.corpora.multi30k import Multi30k
from etude.data.corpora.questions import Questions, Squad
from etude.data.corpora.reviews import Reviews, ReviewsText
from etude.data.corpora.summaries import Summaries
from etude.data.corpora.tatoeba import Tatoeba
from etude.data.corpora.texts import OneText, TextFiles

__all__ = [
    "Clinc150",
    "EvaluatedFiles",
    "InterfaceTexts",
    "LabelledLines",
    "Multi30k",
    "OneText",
    "ParallelFiles",
    "Questions",
    "Reviews",
    "ReviewsText",
    "Squad",
    "Summaries",
    "Tables",
    "Tatoeba",
    "TextFiles",
]
