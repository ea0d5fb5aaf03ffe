//! What stands around every response, outermost first.

use http::{HeaderValue, header};
use origin_front::{Request, Response, RouteName, Urgency, cors};

use super::route::Route;
use super::service::LicenseService;

pub(super) async fn call(service: &LicenseService, request: Request) -> Response {
    let route = Route::parse(request.uri().path());
    let name = route.as_ref().map_or("unknown", Route::name);
    // No page ever comes here: nothing tells browsers that they may.
    if let Some(route) = &route
        && let Some(exchange) = service.exchange(route)
    {
        let (head, body) = request.into_parts();
        let body = body.read(exchange.body_limit()).await;
        return unstored(named(exchange.answer(route, &head, body).await, name));
    }
    let page = request.headers().get(header::ORIGIN).cloned();
    let (head, body) = request.into_parts();
    // Before anything is answered: curl 7.88 loses an answer over HTTP/2 that comes while it still sends, which
    // RFC 9113 8.1 allows. A body too long to be a licence request is not waited for.
    let body = body.read(service.body_limit()).await;
    let response = service.answer(route, &head, body).await;
    // Outermost, so that metrics know the route of refusals too.
    let response = named(response, name);
    // On refusals too: a page that may not read a 403 can tell its viewer nothing.
    let response = readable_by_pages(response, page.as_ref());
    // Licences hold keys, and a refusal must not outlive its reason.
    unstored(response)
}

/// Before all film that shares the connection: without a licence none of it plays.
const AT_ONCE: Urgency = Urgency::of(1);

fn named(mut response: Response, name: &'static str) -> Response {
    response.extensions_mut().insert(RouteName(name));
    response.extensions_mut().insert(AT_ONCE);
    response
}

fn readable_by_pages(mut response: Response, page: Option<&HeaderValue>) -> Response {
    cors::allow_with_credentials(response.headers_mut(), page);
    response
}

fn unstored(mut response: Response) -> Response {
    response
        .headers_mut()
        .insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}
