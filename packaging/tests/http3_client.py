"""Gets a URL over HTTP/3 and nothing else, with curl on ngtcp2 as curl_cffi carries it.

    http3_client.py URL FILE BYTES_PER_SECOND

The body goes to FILE as it comes. Like the curl of the other tests it prints status and protocol at the end, and exits
with curl's code: 0 for a body that is whole. Certificates are not judged.
"""

import sys

from curl_cffi import Curl, CurlError, CurlHttpVersion, CurlInfo, CurlOpt

url, file, rate = sys.argv[1:]
curl = Curl()
curl.setopt(CurlOpt.URL, url.encode())
curl.setopt(CurlOpt.HTTP_VERSION, CurlHttpVersion.V3ONLY)
curl.setopt(CurlOpt.SSL_VERIFYPEER, 0)
curl.setopt(CurlOpt.SSL_VERIFYHOST, 0)
curl.setopt(CurlOpt.TIMEOUT_MS, 120_000)
curl.setopt(CurlOpt.MAX_RECV_SPEED_LARGE, int(rate))
code = 0
with open(file, "wb", buffering=0) as body:
    curl.setopt(CurlOpt.WRITEDATA, body)
    try:
        curl.perform()
    except CurlError as error:
        code = int(error.code)
# curl's numbers of HTTP versions are not their names: 30 is HTTP/3.
version = {30: "3"}.get(curl.getinfo(CurlInfo.HTTP_VERSION), "0")
print(curl.getinfo(CurlInfo.RESPONSE_CODE), version, end="")
sys.exit(code)
