//! HTTP/3.
use crate::exchange::Front;
use crate::service::Service;
use crate::tls::Tls;
use conf::RequestLimits;
use std::net::UdpSocket;
pub(crate) fn endpoint(
    _udp: UdpSocket,
    _tls: &Tls,
    _limits: &RequestLimits,
) -> std::io::Result<quinn::Endpoint> {
    Err(std::io::ErrorKind::Unsupported.into())
}
pub(crate) async fn accept<S: Service>(_e: quinn::Endpoint, _f: Front<S>) {}
