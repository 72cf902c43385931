"""One signed call: wire, signatures, credentials, endpoints, and the connection that uses them."""
