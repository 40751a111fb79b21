"""gRPC as Baton uses it: channels, servers, status translation, proto <-> domain. No torch."""

#: Version of the protocol in proto/baton/v1, exchanged first.
PROTOCOL_VERSION = 1
