from __future__ import annotations

from pathlib import Path

import pytest
from ignite.engine import Engine, Events

from crossmoda.engines import History, NonFiniteLossStop
from crossmoda.errors import CrossmodaError
from crossmoda.files import read_json


def test_a_loss_that_is_not_a_number_stops_training_and_names_the_cases() -> None:
    losses = iter([1.0, float("nan")])
    engine = Engine(lambda engine, batch: {"loss": next(losses)})
    NonFiniteLossStop().attach(engine)
    batches = [{"case": ["case_a", "case_b"]}, [{"source": {"case": ["case_c"]}}]]
    with pytest.raises(CrossmodaError, match="loss is not finite at iteration 2, cases case_c;"):
        engine.run(batches)


def test_history_holds_epoch_means_and_validation_where_it_ran(tmp_path: Path) -> None:
    losses = iter([1.0, 3.0, 5.0, 5.0])
    trainer = Engine(lambda engine, batch: {"loss": next(losses), "pred": "ignored"})
    validator = Engine(lambda engine, batch: None)

    @validator.on(Events.COMPLETED)
    def set_metric(engine: Engine) -> None:
        engine.state.metrics["mean_dice"] = 0.5

    trainer.add_event_handler(Events.EPOCH_COMPLETED(every=2), lambda engine: validator.run([0]))
    History(tmp_path / "history.json", evaluator=validator).attach(trainer)
    trainer.run([0, 1], max_epochs=2)

    assert read_json(tmp_path / "history.json") == {
        "epoch": [1, 2],
        "series": {"loss": [2.0, 5.0], "val_mean_dice": [None, 0.5]},
    }
