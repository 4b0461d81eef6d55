"""On a real base and real text, where they are: FEDLORA_TEST_BASE and FEDLORA_TEST_DATA name their folders."""

import json
import os

import pytest
import torch

from fedlora.app.build.simulation import build
from fedlora.app.config.schema import read_config
from fedlora.app.run.run import Run
from fedlora.training.batches import padded

BASE, DATA = os.environ.get("FEDLORA_TEST_BASE"), os.environ.get("FEDLORA_TEST_DATA")


@pytest.mark.slow
@pytest.mark.skipif(not (BASE and DATA), reason="set FEDLORA_TEST_BASE and FEDLORA_TEST_DATA to folders")
@pytest.mark.parametrize("method", ["lora-a2", "fedsa", "zeropad"])
def test_every_adapter_of_a_real_run_reloads_to_our_logits(tmp_path, method):
    from peft import PeftModel
    from transformers import AutoModelForSequenceClassification

    words = [
        "run.rounds=2", "data.source=files", f"data.path={DATA}", "data.train_examples=300", "data.test_examples=60",
        f"model.base={BASE}", "split.clients=3", "clients.ranks=[2, 4, 8]", f"method.name={method}", "train.lr=2e-3",
    ]  # fmt: skip
    simulation = build(read_config(None, words))
    list(Run(simulation, tmp_path / "run"))
    folders = sorted((tmp_path / "run").rglob("adapter"))
    assert len(folders) == {"lora-a2": 1, "fedsa": 3, "zeropad": 3}[method]
    tokens, everything = simulation.trainer._test, range(60)
    ids, mask = padded(tokens, torch.tensor(list(everything)).numpy(), 0)
    from fedlora.core.adapter import Start
    from fedlora.training.bases.peft_files import read_peft

    for folder in folders:
        labels = len(json.loads((folder / "fedlora.json").read_text())["labels"])
        stock = PeftModel.from_pretrained(
            AutoModelForSequenceClassification.from_pretrained(BASE, num_labels=labels), str(folder)
        ).eval()
        ours = read_peft(folder, simulation.base, simulation.spec)
        with torch.no_grad():
            error = (
                stock(input_ids=ids, attention_mask=mask).logits
                - simulation.base.logits(ids, mask, Start(ours), simulation.spec)
            ).abs()
        print(folder.relative_to(tmp_path), sorted(set(ours.ranks().values())), f"{float(error.max()):.1e}")
        assert float(error.max()) < 1e-5
