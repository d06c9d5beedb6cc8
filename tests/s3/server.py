"""A server that speaks S3 on a loopback port, with one bucket and one user, whose signatures it checks. It says where it is and
who that is in one line of JSON, and ends with its standard input."""

from __future__ import annotations

import json
import sys
import urllib.request

import boto3
from moto.moto_server.threaded_moto_server import ThreadedMotoServer

BUCKET = "payloads"
OWN_BUCKET_ONLY = {
    "Version": "2012-10-17",
    "Statement": [
        {
            "Effect": "Allow",
            "Action": "s3:*",
            "Resource": [f"arn:aws:s3:::{BUCKET}", f"arn:aws:s3:::{BUCKET}/*", "arn:aws:s3:::absent*"],
        }
    ],
}

server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
server.start()
host, port = server.get_host_and_port()
endpoint = f"http://{host}:{port}"
first = {"endpoint_url": endpoint, "region_name": "us-east-1", "aws_access_key_id": "first", "aws_secret_access_key": "first"}
for name in (BUCKET, "others"):
    boto3.client("s3", **first).create_bucket(Bucket=name)
iam = boto3.client("iam", **first)
iam.create_user(UserName="batch")
iam.put_user_policy(UserName="batch", PolicyName="own", PolicyDocument=json.dumps(OWN_BUCKET_ONLY))
key = iam.create_access_key(UserName="batch")["AccessKey"]
# From now on whoever signs wrongly, or may not do what it wants, is refused.
with urllib.request.urlopen(
    urllib.request.Request(f"{endpoint}/moto-api/reset-auth", data=b"0", headers={"Content-Type": "text/plain"})
) as response:
    response.read()
print(json.dumps({"endpoint": endpoint, "key": key["AccessKeyId"], "secret": key["SecretAccessKey"]}), flush=True)
sys.stdin.read()
