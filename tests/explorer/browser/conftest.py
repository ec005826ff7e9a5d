"""The explorer in a real browser: a server on a free port, and Debian's chromium."""

import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import uvicorn
from starlette.applications import Starlette

from diffusae.explorer.app import build_app
from diffusae.explorer.explored import Explored
from diffusae.explorer.security import Security
from diffusae.explorer.serving import listening
from explorer.browser.fake_jobs import FakeJobs

CHROMIUM = shutil.which("chromium")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "browser" in item.path.parts:
            item.add_marker("browser")
            if CHROMIUM is None:
                item.add_marker(
                    pytest.mark.skip(
                        reason="there is no chromium; `apt install chromium` gives one"
                    )
                )


@contextmanager
def served(app: Starlette) -> Iterator[str]:
    """Where an application answers meanwhile, such as http://127.0.0.1:40123/."""
    with listening("127.0.0.1", 0) as connection:
        config = uvicorn.Config(app, log_config=None)
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [connection]}, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{connection.getsockname()[1]}/"
        server.should_exit = True
        thread.join(10)


@pytest.fixture(scope="session")
def address(explored: Explored) -> Iterator[str]:
    """Where the explorer of the tiny study answers."""
    with served(build_app(explored, Security("127.0.0.1"))) as address:
        yield address


@pytest.fixture(scope="session")
def jobs() -> FakeJobs:
    """What answers in the place of the generations, for `fake_page`."""
    return FakeJobs()


@pytest.fixture(scope="session")
def fake_address(explored: Explored, jobs: FakeJobs) -> Iterator[str]:
    """Where the explorer of the tiny study answers, without a model."""
    app = build_app(explored, Security("127.0.0.1"))
    app.router.routes[:0] = jobs.routes()
    with served(app) as address:
        yield address


@pytest.fixture(scope="module")  # its event loop must not be there in tests of other files
def browser():
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.fixture
def page(browser, address):
    """An empty page whose relative addresses are the explorer's: `page.goto("find/")`. What the
    console calls an error fails the test, and so does a fault of a script.
    """
    with opened(browser, address) as page:
        yield page


@pytest.fixture
def fake_page(browser, fake_address, jobs: FakeJobs):
    """The same page where `jobs` answers in the place of the model."""
    jobs.pause = 0.001
    with opened(browser, fake_address) as page:
        yield page


@contextmanager
def opened(browser, address: str):
    context = browser.new_context(base_url=address)
    context.set_default_timeout(10_000)
    opened = context.new_page()
    faults: list[str] = []
    opened.on("console", lambda said: said.type == "error" and faults.append(said.text))
    opened.on("pageerror", lambda error: faults.append(str(error)))
    yield opened
    context.close()
    assert not faults, faults
