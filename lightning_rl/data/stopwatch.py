"""How long collecting takes."""

import time
from collections.abc import Callable
from functools import wraps
from typing import Any, TypeVar, cast

Method = TypeVar("Method", bound=Callable[..., Any])


def counting_seconds(method: Method) -> Method:
    """Adds the seconds that a method takes to its object's `collecting_seconds`."""

    @wraps(method)
    def counted(self: Any, *args: Any, **kwargs: Any) -> Any:
        began = time.perf_counter()
        try:
            return method(self, *args, **kwargs)
        finally:
            self.collecting_seconds += time.perf_counter() - began

    return cast(Method, counted)
