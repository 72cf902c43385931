"""
A suite of cases for any stand-in for the service, and for the sandbox itself.

The cases are JSON in `cases/`, apart from any language; README.md says how they are read.
`marketplace-metering sandbox check URL` runs them over HTTP.
"""
