from keras_l2l import evaluation


def test_baseline_grids():
    assert list(evaluation.BASELINES) == ["SGD", "NAG", "RMSprop", "Adam"]
    for baseline in evaluation.BASELINES.values():
        assert len(baseline.learning_rates) >= 7
        assert list(baseline.learning_rates) == sorted(baseline.learning_rates)
        assert float(baseline.make_rule(9).learning_rate) > 0.0
    assert evaluation.BASELINES["NAG"].make_rule(9).nesterov


def test_names_of_kept_runs():
    spec = evaluation.OptimizerSpec(lambda steps: None, key="0a-cooldown")
    assert spec.file_name("a, b/c") == "a-b-c-0a-cooldown"
