"""gRPC as Baton uses it: channels, servers, status translation, proto <-> domain. No torch."""

import os

# Names are looked up as everything else on the machine does it: gRPC's own resolver knows no mDNS,
# and asks the name server even for names in /etc/hosts. It reads this when it is imported.
os.environ.setdefault("GRPC_DNS_RESOLVER", "native")

#: Version of the protocol in proto/baton/v1, exchanged first.
PROTOCOL_VERSION = 2
