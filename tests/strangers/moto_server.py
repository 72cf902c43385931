"""
moto's server, where every customer is subscribed: `python moto_server.py PORT`.

moto subscribes nobody by itself, and offers no way to over HTTP. In an environment with
`moto[server]`, this makes the table in the sandbox's README:

    python tests/strangers/moto_server.py 5077 &
    marketplace-metering sandbox check http://127.0.0.1:5077 --legacy --markdown
"""

import sys

from moto.meteringmarketplace.models import CustomerDeque  # type: ignore[import-not-found]
from moto.server import main  # type: ignore[import-not-found]

CustomerDeque.is_subscribed = lambda _, __: True
main(["-H", "127.0.0.1", "-p", sys.argv[1]])
