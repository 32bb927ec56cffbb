"""Silence for the chatter of TensorFlow, XLA and their converters, which is not for users."""

import logging
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from vit_export.base.packages import require_tensorflow

_CHATTY = ("tensorflow", "absl", "tf2onnx", "keras")


def quiet_environment() -> None:
    """Settings that C++ libraries read when they load: call before TensorFlow is imported."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    for name in _CHATTY:
        logging.getLogger(name).setLevel(logging.ERROR)


def import_tensorflow() -> None:
    """Import TensorFlow without its greetings (absl writes some before any level can be set).

    Raises:
        InputError: it is not installed.
    """
    # TensorFlow imports Keras, which reads its backend once, then: the user's may be another, from keras.json too.
    os.environ["KERAS_BACKEND"] = "tensorflow"
    # With oneDNN, TensorFlow keeps what it frees for itself: a model that is gone would still take its memory.
    os.environ.setdefault("TF_ONEDNN_USE_SYSTEM_ALLOCATOR", "1")
    if sys.modules.get("tensorflow") is None:
        require_tensorflow()
        quiet_environment()
        with quiet():
            import tensorflow  # noqa: F401


@contextmanager
def quiet() -> Iterator[None]:
    """Drop what native code writes to stderr inside the block; if the block fails, show it after all.

    An interruption is no failure. What TensorFlow logs for information is dropped too, where a program imported it
    before this package could ask for less.
    """
    import tempfile

    sys.stderr.flush()
    saved = os.dup(2)
    loggers = [logging.getLogger(name) for name in _CHATTY]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(max(logger.level, logging.ERROR))
    with tempfile.TemporaryFile() as sink, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        os.dup2(sink.fileno(), 2)
        try:
            yield
        except Exception:
            sys.stderr.flush()
            os.dup2(saved, 2)
            sink.seek(0)
            with suppress(OSError):
                os.write(2, sink.read())
            raise
        finally:
            sys.stderr.flush()
            os.dup2(saved, 2)
            os.close(saved)
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)
