"""What the commands import while they run, so that `tests.warm` has it before its processes begin."""

import peft
from transformers import AutoModelForSequenceClassification, AutoTokenizer, BertForSequenceClassification, BertModel

from fedlora import cli
from fedlora.app.compare import progress as compare_progress
from fedlora.app.finished import predict
from fedlora.app.run import progress, run, watch
from fedlora.deploy import config, server, site

__all__ = [
    "AutoModelForSequenceClassification",
    "AutoTokenizer",
    "BertForSequenceClassification",
    "BertModel",
    "cli",
    "compare_progress",
    "config",
    "peft",
    "predict",
    "progress",
    "run",
    "server",
    "site",
    "watch",
]
