"""Send an event, read a list: any Kafka client and any Redis client will do.

python examples/send_event.py [broker host:port] [store URL]
"""

import asyncio
import json
import sys
from datetime import UTC, datetime

import redis
from aiokafka import AIOKafkaProducer


async def main(broker: str = "localhost:9092", store: str = "redis://localhost:6379/0") -> None:
    """Ann looks at a mug; print what is recommended to her, or to anybody while nothing is known of her."""
    event = {"type": "view_item", "user": "ann", "item": "mug", "time": datetime.now(UTC).isoformat()}
    async with AIOKafkaProducer(bootstrap_servers=broker) as producer:
        await producer.send_and_wait("events", json.dumps(event).encode(), key=event["user"].encode())
    await asyncio.sleep(0.5)
    with redis.Redis.from_url(store) as client:
        view = client.get("tidewise:recs:ann") or client.get("tidewise:trending")
        for line in json.loads(view or b'{"items": []}')["items"]:
            print(line["item"], line["score"], "because of", line["because"])


asyncio.run(main(*sys.argv[1:]))
