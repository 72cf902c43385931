"""One signed call: the wire, signatures, credentials, endpoints, and the connection that uses them."""
