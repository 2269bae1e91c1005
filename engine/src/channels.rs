//! The ways of notices to people and programs, from the config.

use std::sync::Arc;

use anyhow::{Context, anyhow};
use vigie_actors::alert::alertmanager::{Alertmanager, Open};
use vigie_actors::alert::letter::Links;
use vigie_actors::alert::link::Signer;
use vigie_actors::alert::mail::smtp::{Server, Smtp};
use vigie_actors::alert::mail::{EmlFiles, Letters};
use vigie_actors::alert::route::Route;
use vigie_actors::alert::text::Voice;
use vigie_actors::alert::webhook::Webhook;
use vigie_actors::alert::{Channel, History};
use vigie_actors::clock::Clock;
use vigie_actors::config::Invalid;
use vigie_actors::quantity::Catalogue;
use vigie_actors::score::incident::Incident;
use vigie_actors::store::embedded::Embedded;

use crate::config::Config;
use crate::console::Console;
use crate::service::Mode;

/// A channel, and which notices go by it.
pub(crate) type Routed = (Box<dyn Channel>, Route);

/// All of them.
pub(crate) fn all(
    config: &Config,
    mode: Mode,
    store: &Embedded,
    catalogue: &Arc<Catalogue>,
    signer: &Signer,
    clock: &Arc<dyn Clock>,
) -> anyhow::Result<Vec<Routed>> {
    let mut channels = Vec::new();
    if mode.mails {
        channels.push(mail(config, store, catalogue, signer)?);
        for name in config.webhook.keys() {
            channels.push(webhook(config, name, catalogue, clock)?);
        }
        for name in config.alertmanager.keys() {
            let store = store.clone();
            let route = config.alertmanager[name].route(name);
            let open = move || still_open(&store, &route);
            channels.push(alertmanager(
                config,
                name,
                catalogue,
                clock,
                Box::new(open),
            )?);
        }
    }
    let console: Box<dyn Channel> = Box::new(Console::new(catalogue));
    channels.push((console, Route::all(Console::NAME)));
    Ok(channels)
}

/// By the configured mail server, or into files.
pub(crate) fn mail(
    config: &Config,
    store: &Embedded,
    catalogue: &Arc<Catalogue>,
    signer: &Signer,
) -> anyhow::Result<Routed> {
    let dir = config.data_dir.join("mail");
    let letters = letters(config, Box::new(store.clone()), catalogue, signer)?;
    let email = &config.email;
    let channel: Box<dyn Channel> = match email.server() {
        Some(server) => Box::new(smtp(config, server, letters)),
        None => Box::new(EmlFiles::new(dir, letters)),
    };
    Ok((channel, email.route()))
}

/// By that mail server.
pub(crate) fn smtp(config: &Config, server: Server, letters: Letters) -> Smtp {
    let aside = config.data_dir.join("mail").join("undeliverable");
    let budget = (config.email.daily_budget, config.email.critical_reserve);
    Smtp::new(server, letters, aside, budget)
}

/// Who writes the mails.
pub(crate) fn letters(
    config: &Config,
    history: Box<dyn History>,
    catalogue: &Arc<Catalogue>,
    signer: &Signer,
) -> anyhow::Result<Letters> {
    let links = config.http.public_url.as_ref().map(|url| Links {
        base: url.trim_end_matches('/').to_owned(),
        signer: signer.clone(),
    });
    let letters = config.email.letters(Arc::clone(catalogue));
    Ok(letters.context("[email]")?.with(history, links))
}

fn misconfigured(invalid: Invalid) -> anyhow::Error {
    anyhow!(invalid)
}

/// The one of that name.
pub(crate) fn webhook(
    config: &Config,
    name: &str,
    catalogue: &Arc<Catalogue>,
    clock: &Arc<dyn Clock>,
) -> anyhow::Result<Routed> {
    let hook = config.webhook.get(name).context("no such webhook")?;
    let route = hook.route(name);
    let channel = Webhook::new(
        route.channel.clone(),
        hook.endpoint().map_err(misconfigured)?,
        hook.secret.clone(),
        Voice::english(Arc::clone(catalogue)),
        Arc::clone(clock),
    );
    Ok((Box::new(channel), route))
}

/// The one of that name.
pub(crate) fn alertmanager(
    config: &Config,
    name: &str,
    catalogue: &Arc<Catalogue>,
    clock: &Arc<dyn Clock>,
    open: Open,
) -> anyhow::Result<Routed> {
    let manager = config.alertmanager.get(name);
    let manager = manager.context("no such Alertmanager")?;
    let route = manager.route(name);
    let channel = Alertmanager::new(
        route.channel.clone(),
        manager.endpoint().map_err(misconfigured)?,
        Voice::english(Arc::clone(catalogue)),
        Arc::clone(clock),
        open,
    );
    Ok((Box::new(channel), route))
}

/// What an Alertmanager has to be told again.
fn still_open(store: &Embedded, route: &Route) -> Vec<Incident> {
    let open = store.open_incidents().unwrap_or_else(|error| {
        tracing::warn!(%error, "cannot read the open incidents");
        Vec::new()
    });
    let told = |one: &Incident| one.told.is_some() && route.is_told(one);
    open.into_iter().filter(told).collect()
}
