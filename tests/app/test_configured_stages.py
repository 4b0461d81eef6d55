"""Stages in a config: built in order, and refused with one sentence."""

import pytest

from fedlora.app.build.method import find_subject, make_pipeline
from fedlora.app.config.schema import make_config
from fedlora.errors import ConfigError, MethodError
from fedlora.federation.stages.clip import Clip
from fedlora.federation.stages.server_optimizer import FedAvgM
from fedlora.methods.fedit import FedIT


def pipeline(*stages, method="fedit"):
    return make_pipeline(make_config({"method": {"name": method}, "stage": list(stages)}))


def test_stages_stand_in_the_order_of_the_config():
    found = pipeline({"name": "clip", "norm": 0.5}, {"name": "fedavgm"})
    assert found.stages == (Clip(norm=0.5), FedAvgM())


@pytest.mark.parametrize(
    ("stages", "error", "sentence"),
    [
        ([{"name": "clap"}], MethodError, "There is no stage 'clap': did you mean 'clip'"),
        ([{"name": "clip", "nrom": 1.0}], ConfigError, "unknown key stage clip.nrom: did you mean 'norm'"),
        ([{"name": "clip", "norm": "x"}], MethodError, "stage clip.norm is 'x'; input should be a valid number"),
        ([{"name": "clip", "norm": 0.0}], MethodError, "stage clip.norm is 0.0; it must be above 0"),
        ([{"norm": 1.0}], ConfigError, "stage.0.name"),
        ([{"name": "nowhere.py:Mine"}], MethodError, "there is no file '.*nowhere.py'"),
    ],
)
def test_what_stages_do_not_take(stages, error, sentence):
    with pytest.raises(error, match=sentence.replace("(", r"\(")):
        pipeline(*stages)


def test_a_stage_that_makes_no_sense_with_a_method():
    with pytest.raises(MethodError, match="stage fedavgm does not go with flora"):
        pipeline({"name": "fedavgm"}, method="flora")


def test_the_old_name_of_the_section_is_told():
    with pytest.raises(ConfigError, match=r"a section \[\[wrap\]\], which is called \[\[stage\]\] now"):
        make_config({"wrap": [{"name": "clip"}]})


def test_methods_and_stages_are_found_by_one_name(tmp_path):
    assert find_subject("fedit") is FedIT
    assert find_subject("clip") is Clip
    with pytest.raises(MethodError, match="There is no method or stage 'clpi'"):
        find_subject("clpi")
    file = tmp_path / "mine.py"
    file.write_text("class Mine:\n    pass\n")
    with pytest.raises(MethodError, match="neither a fedlora Method nor a fedlora Stage"):
        find_subject(f"{file}:Mine")


def test_facts_of_a_users_method_are_no_class_variables(tmp_path):
    file = tmp_path / "old.py"
    file.write_text("from fedlora.methods.fedit import FedIT\nclass Old(FedIT):\n    mixed_ranks = True\n")
    with pytest.raises(MethodError, match="mixed_ranks is a class variable: return it from `facts`"):
        find_subject(f"{file}:Old")
