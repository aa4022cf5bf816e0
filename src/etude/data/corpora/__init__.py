"""Corpora: the rows of each split, from a published data set or one's own files (see `etude.data.prepare.Corpus`)."""

from etude.data.corpora.clinc150 import Clinc150
from etude.data.corpora.conversation_files import ConversationFiles
from etude.data.corpora.evaluation_files import EvaluationFiles
from etude.data.corpora.interface_texts import InterfaceTexts
from etude.data.corpora.labelled_lines import LabelledLines
from etude.data.corpora.one_text import OneText
from etude.data.corpora.parallel.back_translated import BackTranslated
from etude.data.corpora.parallel.direction_files import DirectionFiles
from etude.data.corpora.parallel.multi30k import Multi30k
from etude.data.corpora.parallel.parallel_files import ParallelFiles
from etude.data.corpora.parallel.tatoeba import Tatoeba
from etude.data.corpora.questions import QuestionFiles, Squad
from etude.data.corpora.review_mentions import ReviewMentions
from etude.data.corpora.reviews import Reviews, ReviewsText
from etude.data.corpora.summaries import Summaries
from etude.data.corpora.table_files import Tables
from etude.data.corpora.tagged_words import TaggedWords
from etude.data.corpora.text_files import TextFiles

__all__ = [
    "BackTranslated",
    "Clinc150",
    "ConversationFiles",
    "DirectionFiles",
    "EvaluationFiles",
    "InterfaceTexts",
    "LabelledLines",
    "Multi30k",
    "OneText",
    "ParallelFiles",
    "QuestionFiles",
    "ReviewMentions",
    "Reviews",
    "ReviewsText",
    "Squad",
    "Summaries",
    "Tables",
    "TaggedWords",
    "Tatoeba",
    "TextFiles",
]
