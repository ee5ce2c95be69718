"""S3, and what speaks its protocol, through s3fs.

Credentials, endpoint and region are those of the environment and of `~/.aws`, as every S3 program
takes them. An answer is waited for a bounded time: at most three tries a request, with 5 seconds to
connect and 30 to answer each.

Source: conditional requests of S3, https://docs.aws.amazon.com/AmazonS3/latest/userguide/conditional-requests.html
"""

import asyncio
import email.utils
import errno
import logging
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any, TypeVar

import s3fs
from aiohttp import ClientError
from botocore.exceptions import BotoCoreError
from fsspec.asyn import sync

from lesion.runs.object_store import Listing, ObjectStore, Stored

_AT_A_TIME = 64
_TRIES = 3
_PATIENCE = {
    "connect_timeout": 5,
    "read_timeout": 30,
    "max_pool_connections": _AT_A_TIME,
    "retries": {"mode": "standard", "total_max_attempts": _TRIES},
}
_CONDITION_FAILED = {"PreconditionFailed"}
_OTHERS_WRITE = {"ConditionalRequestConflict", "OperationAborted"}
_logger = logging.getLogger(__name__)
T = TypeVar("T")


class S3Store(ObjectStore):
    """A bucket."""

    page_size = 1000
    """Objects in one answer of a listing; the most that S3 gives."""

    def __init__(self, bucket: str) -> None:
        self.bucket = bucket
        self.s3 = s3fs.S3FileSystem(
            config_kwargs=_PATIENCE, use_listings_cache=False, skip_instance_cache=True
        )
        self.s3.retries = 1  # botocore tries again already

    def get(self, key: str) -> Stored:
        content, answer = self._wait(self._get(key))
        written = answer["LastModified"].timestamp()
        said = answer["ResponseMetadata"]["HTTPHeaders"].get("date")
        now = email.utils.parsedate_to_datetime(said).timestamp() if said else time.time()
        return Stored(content, answer["ETag"], max(0.0, now - written))

    def get_many(self, keys: Iterable[str]) -> dict[str, bytes]:
        async def one(key: str) -> tuple[str, bytes | None]:
            try:
                return key, (await self._get(key))[0]
            except FileNotFoundError:
                return key, None

        found = self._wait(_all(one, keys))
        return {key: content for key, content in found if content is not None}

    def put(self, key: str, content: bytes) -> str:
        tag = self._wait(self._put(key, content))
        assert tag is not None, "no condition was made"
        return tag

    def put_many(self, contents: Mapping[str, bytes]) -> None:
        self._wait(_all(lambda item: self._put(*item), contents.items()))

    def create(self, key: str, content: bytes) -> str | None:
        return self._wait(self._put(key, content, IfNoneMatch="*"))

    def replace(self, key: str, content: bytes, tag: str) -> str | None:
        try:
            return self._wait(self._put(key, content, IfMatch=tag))
        except FileNotFoundError:
            return None

    def delete(self, key: str, tag: str | None = None) -> None:
        condition = {} if tag is None else {"IfMatch": tag}
        try:
            self._wait(self._call("delete_object", Key=key, **condition))
        except FileNotFoundError:
            return

    def listing(self, prefix: str) -> Listing:
        sizes: dict[str, int] = {}
        folders: set[str] = set()
        page: dict[str, str] = {}
        while True:
            answer = self._wait(self._call("list_objects_v2", Prefix=prefix, Delimiter="/", **page))
            for each in answer.get("Contents", []):
                sizes[each["Key"].removeprefix(prefix)] = each["Size"]
            for each in answer.get("CommonPrefixes", []):
                folders.add(each["Prefix"].removeprefix(prefix).rstrip("/"))
            if not answer.get("IsTruncated"):
                sizes.pop("", None)  # a "folder" that somebody made by hand in a console
                return Listing(sizes, frozenset(folders))
            page = {"ContinuationToken": answer["NextContinuationToken"]}

    def filesystem(self) -> Any:
        return self.s3

    def full_path(self, key: str) -> str:
        return f"{self.bucket}/{key}"

    async def _get(self, key: str) -> tuple[bytes, Any]:
        """Content and answer; one that breaks off is asked for again."""
        for left in reversed(range(_TRIES)):
            answer = await self._call("get_object", Key=key)
            try:
                return await answer["Body"].read(), answer
            except (ClientError, BotoCoreError, OSError):
                if not left:
                    raise
        raise AssertionError("the last try returns or raises")

    async def _put(self, key: str, content: bytes, **condition: str) -> str | None:
        answer = await self._call("put_object", Key=key, Body=content, **condition)
        return answer["ETag"] if answer else None

    async def _call(self, operation: str, **words: Any) -> Any:
        """The answer of a request; None where its condition does not hold."""
        for wait in (0.1, 0.3, 0.9, None):
            try:
                return await self.s3._call_s3(operation, Bucket=self.bucket, **words)
            except OSError as error:
                code = _code(error)
                if code in _CONDITION_FAILED:
                    return None
                if code not in _OTHERS_WRITE or wait is None:
                    raise
                await asyncio.sleep(wait)
        raise AssertionError("the last try returns or raises")

    def _wait(self, answer: Awaitable[T]) -> T:
        """The result of a request.

        Raises:
            FileNotFoundError: there is no such object.
            NotADirectoryError: there is no such bucket.
            ConnectionError: anything else that went wrong.
        """
        try:
            result: T = sync(self.s3.loop, _awaited, answer)
        except FileNotFoundError as error:
            if _code(error) != "NoSuchBucket":
                raise
            found = f"there is no bucket {self.bucket!r}"
            raise NotADirectoryError(errno.ENOTDIR, found) from error
        except (OSError, BotoCoreError, ClientError) as error:
            _logger.debug("S3 failed", exc_info=True)
            raise ConnectionError(_one_line(error)) from error
        return result


async def _awaited(answer: Awaitable[T]) -> T:
    return await answer


async def _all(one: Callable[[Any], Awaitable[T]], things: Iterable[Any]) -> list[T]:
    """Something of all things, a bounded number at a time."""
    room = asyncio.Semaphore(_AT_A_TIME)

    async def with_room(thing: Any) -> T:
        async with room:
            return await one(thing)

    return await asyncio.gather(*map(with_room, things))


def _code(error: OSError) -> str | None:
    """The word by which S3 says what is wrong."""
    answer = getattr(error.__cause__, "response", None) or {}
    code: str | None = answer.get("Error", {}).get("Code")
    return code


def _one_line(error: BaseException) -> str:
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    code = _code(error) if isinstance(error, OSError) else None
    return f"{code + ': ' if code else ''}{text.splitlines()[0].rstrip('.')}"
