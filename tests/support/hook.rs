//! Route of an application that an identity provider calls.

use std::{sync::Arc, time::Instant};

use axum::{Router, body::Body, routing::any};
use futures_util::future::BoxFuture;
use http::{Request, Response, StatusCode};
use tokio::{net::TcpListener, sync::mpsc};
use tower::ServiceExt;
use tower_session_cache::{RevocationReceiver, RevocationSource};

use super::soon;

/// Address of the route, before it is known what receives its requests.
pub struct Hook {
    listener: TcpListener,
    pub url: String,
}

/// Answer that the provider has got.
#[derive(Clone, Copy, Debug)]
pub struct Answer {
    pub status: StatusCode,
    /// When the request arrived.
    pub arrived: Instant,
    /// When the receiver had answered it.
    pub answered: Instant,
}

/// The answers that the provider has got, in order.
pub struct Answers(mpsc::UnboundedReceiver<Answer>);

impl Hook {
    pub async fn bind() -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let url = format!("http://{}/hook", listener.local_addr().unwrap());
        Self { listener, url }
    }

    pub fn serve<S: RevocationSource>(self, receiver: &RevocationReceiver<S>) -> Answers {
        self.serve_with(receiver, || Box::pin(async {}))
    }

    /// Like [`serve`](Self::serve). `meanwhile` runs between the revocation and the answer, while
    /// the provider waits.
    pub fn serve_with<S: RevocationSource>(
        self,
        receiver: &RevocationReceiver<S>,
        meanwhile: impl Fn() -> BoxFuture<'static, ()> + Send + Sync + 'static,
    ) -> Answers {
        let (sender, answers) = mpsc::unbounded_channel();
        let (receiver, meanwhile) = (receiver.clone(), Arc::new(meanwhile));
        let respond = move |request: Request<Body>| {
            let (receiver, meanwhile) = (receiver.clone(), Arc::clone(&meanwhile));
            let sender = sender.clone();
            async move {
                let arrived = Instant::now();
                let answer: Response<_> = receiver.oneshot(request).await.unwrap();
                let answered = Instant::now();
                meanwhile().await;
                // The test may have ended.
                let _ = sender.send(Answer {
                    status: answer.status(),
                    arrived,
                    answered,
                });
                answer
            }
        };
        let app = Router::new().route("/hook", any(respond));
        tokio::spawn(async move { axum::serve(self.listener, app).await });
        Answers(answers)
    }
}

impl Answers {
    pub async fn next(&mut self) -> StatusCode {
        self.next_answer().await.status
    }

    pub async fn next_answer(&mut self) -> Answer {
        let answer = soon("a request of the provider", self.0.recv()).await;
        answer.unwrap()
    }
}
