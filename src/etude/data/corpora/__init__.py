"""Corpora: where the rows of each split come from, as `etude.data.prepare.Corpus` describes."""

from etude.data.corpora.evaluation_files import EvaluatedFiles
from etude.data.corpora.interface_texts import InterfaceTexts
from etude.data.corpora.multi30k import Multi30k
from etude.data.corpora.own_files import ParallelFiles, Tables
from etude.data.corpora.plain_texts import OneText, TextFiles
from etude.data.corpora.published_labels import Clinc150, LabelledLines
from etude.data.corpora.questions import QuestionFiles, Squad
from etude.data.corpora.reviews import Reviews, ReviewsText
from etude.data.corpora.summaries import Summaries
from etude.data.corpora.tatoeba import Tatoeba

__all__ = [
    "Clinc150",
    "EvaluatedFiles",
    "InterfaceTexts",
    "LabelledLines",
    "Multi30k",
    "OneText",
    "ParallelFiles",
    "QuestionFiles",
    "Reviews",
    "ReviewsText",
    "Squad",
    "Summaries",
    "Tables",
    "Tatoeba",
    "TextFiles",
]
