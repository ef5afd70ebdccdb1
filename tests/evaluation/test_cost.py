from keras_l2l import rules
from keras_l2l.evaluation import measure_cost


def test_cost():
    cost = measure_cost(rules.Adam(), coordinates=100)
    assert (cost.meta_parameters, cost.coordinates) == (1, 100)
    assert (cost.state_floats, cost.state_bytes) == (2.0, 8.0)
    assert cost.update_nanoseconds > 0
    lstm = rules.CoordinatewiseLSTM(units=3, layers=2, dtype="float64")
    cost = measure_cost(lstm, coordinates=100)
    assert (cost.state_floats, cost.state_bytes) == (12.0, 96.0)
