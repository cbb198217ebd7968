"""The client for ordinary programs: every call waits for its answer."""

import time
from collections.abc import Callable, Generator, Iterator
from typing import Any, Self

import httpx

from creativeflow.clients.aigeneration.calls import (
    ROOT,
    Call,
    Retries,
    acting,
    alive,
    document_of,
    headers_of,
    of_service,
    pauses,
    problem_of,
    snapshot,
)
from creativeflow.clients.aigeneration.problems import (
    GenerationEndedError,
    NoAnswerError,
    WaitedTooLongError,
)
from creativeflow.clients.aigeneration.resources import (
    AWAITING_SELECTION,
    COMPLETED,
    Asset,
    Generation,
    Quote,
)


class Client:
    """Calls the service; use it as a context, and share it between threads.

    Every method raises ProblemError where the service says no, and NoAnswerError where it does not
    answer. A call that changes something is made under an idempotency key, yours or one of its own,
    so that trying again starts nothing twice.
    """

    def __init__(
        self,
        base_url: str,
        *,
        api_key: str | None = None,
        token: str | None = None,
        user_id: str | None = None,
        language: str | None = None,
        timeout_seconds: float = 30.0,
        retries: Retries | None = None,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        headers = headers_of(api_key, token, user_id, language)
        self._http = httpx.Client(
            base_url=base_url, headers=headers, timeout=timeout_seconds, transport=transport
        )
        self._retries = retries or Retries()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let the connections go."""
        self._http.close()

    def quote(self, prompt: str, output_format: str, **brief: Any) -> Quote:
        """What it would cost."""
        body = {"input_prompt": prompt, "output_format": output_format, **brief}
        return Quote.read(self._send(Call(method="POST", path=f"{ROOT}/quote", body=body)))

    def create(
        self, prompt: str, output_format: str, *, key: str | None = None, **brief: Any
    ) -> Generation:
        """Start a generation. `brief` is whatever else the API takes, such as `emotional_tone` or
        `quote_id`.
        """
        body = {"input_prompt": prompt, "output_format": output_format, **brief}
        return Generation.read(self._send(acting("", body, key)))

    def get(self, generation_id: str) -> Generation:
        """How it stands."""
        return Generation.read(self._send(Call(method="GET", path=f"{ROOT}/{generation_id}")))

    def listed(self, **filters: Any) -> Iterator[Generation]:
        """All that fit, newest first, page by page as they are needed."""
        cursor = None
        while True:
            wanted = {
                name: value
                for name, value in {**filters, "cursor": cursor}.items()
                if value is not None
            }
            page = self._send(Call(method="GET", path=ROOT, parameters=wanted))
            yield from map(Generation.read, page["items"])
            if (cursor := page["next"]) is None:
                return

    def select(
        self,
        generation_id: str,
        sample: Asset | str,
        *,
        resolution: str | None = None,
        file_format: str | None = None,
        quote_id: str | None = None,
        key: str | None = None,
    ) -> Generation:
        """Pick one sample and order the final."""
        body = {
            "selected_sample_id": sample if isinstance(sample, str) else sample.asset_id,
            "desired_resolution": resolution,
            "output_format": file_format,
            "quote_id": quote_id,
        }
        return Generation.read(self._send(acting(f"/{generation_id}/select-sample", body, key)))

    def regenerate(
        self, generation_id: str, *, key: str | None = None, **changes: Any
    ) -> Generation:
        """Ask for another round of samples; `changes` such as `updated_prompt`."""
        return Generation.read(
            self._send(acting(f"/{generation_id}/regenerate-samples", changes, key))
        )

    def retry(self, generation_id: str, *, key: str | None = None, **changes: Any) -> Generation:
        """Start one that has ended badly again; the answer is a new generation."""
        return Generation.read(self._send(acting(f"/{generation_id}/retry", changes, key)))

    def cancel(self, generation_id: str, *, key: str | None = None) -> Generation:
        """End it early. On one that has ended nothing happens."""
        return Generation.read(self._send(acting(f"/{generation_id}/cancel", None, key)))

    def stream(self, generation_id: str) -> Generator[Generation, None, None]:
        """Every version from now on, live, until it has ended. A lost connection is taken up where
        it broke.
        """
        seen, lost = 0, 0
        while True:
            broken, problem = None, None
            try:
                headers = {"Accept": "text/event-stream"} | (
                    {"Last-Event-ID": str(seen)} if seen else {}
                )
                with self._http.stream(
                    "GET", f"{ROOT}/{generation_id}/stream", headers=headers
                ) as answer:
                    if answer.is_error:
                        answer.read()
                        problem = problem_of(answer)
                    for line in answer.iter_lines():
                        lost = 0 if alive(line) else lost
                        if (found := snapshot(line)) is not None:
                            seen = found.version
                            yield found
                            if found.ended:
                                return
            except httpx.TransportError as error:
                broken = error
            lost += 1
            if (pause := self._retries.pause(lost, problem)) is None:
                raise problem or NoAnswerError(
                    "The live stream cannot be reached, or breaks again and again."
                ) from broken
            time.sleep(pause)

    def wait(
        self,
        generation_id: str,
        *,
        for_samples: bool = False,
        seconds: float = 600.0,
        on_change: Callable[[Generation], None] | None = None,
    ) -> Generation:
        """Wait for the final, or for samples to pick from; `on_change` is told of every new
        version.

        Raises:
            GenerationEndedError: it has ended without them. WaitedTooLongError: the time is over;
            it goes on.
        """
        wanted = AWAITING_SELECTION if for_samples else COMPLETED
        ends, seen = time.monotonic() + seconds, 0
        for pause in pauses():
            found = self.get(generation_id)
            if found.version != seen:
                seen = found.version
                if on_change is not None:
                    on_change(found)
            if found.status == wanted:
                return found
            if found.ended:
                raise GenerationEndedError(found)
            if time.monotonic() + pause > ends:
                raise WaitedTooLongError(found)
            time.sleep(pause)
        raise AssertionError("pauses never end")

    def download(self, asset: Asset) -> bytes:
        """The bytes of a picture; who calls is told to the service only, never to another
        address.
        """
        if of_service(asset.url, self._http.base_url):
            return self._tried(lambda: self._http.get(asset.url)).content
        return self._tried(lambda: httpx.get(asset.url, timeout=self._http.timeout)).content

    def _send(self, call: Call) -> Any:
        answer = self._tried(
            lambda: self._http.request(
                call.method, call.path, json=call.body, params=call.parameters, headers=call.headers
            )
        )
        return document_of(answer)

    def _tried(self, ask: Callable[[], httpx.Response]) -> httpx.Response:
        tried = 0
        while True:
            tried += 1
            try:
                answer = ask()
            except httpx.TransportError as error:
                if (pause := self._retries.pause(tried, None)) is None:
                    raise NoAnswerError("The service does not answer.") from error
            else:
                if (problem := problem_of(answer)) is None:
                    return answer
                if (pause := self._retries.pause(tried, problem)) is None:
                    raise problem
            time.sleep(pause)
