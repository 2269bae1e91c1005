//! Joins one of the networks of the config, and joins again when it is lost.

use alloc::vec::Vec;

use embassy_net::Runner;
use embassy_time::{Duration, Timer, with_timeout};
use esp_hal::rng::Rng;
use esp_println::println;
use esp_radio::wifi::sta::StationConfig;
use esp_radio::wifi::{
    AuthenticationMethodConfig, Config, ConnectionError, Interface, WifiController, WifiError,
};
use vigie_wire::node::Wifi;

/// An access point that has not answered by then is not going to.
const JOIN: Duration = Duration::from_secs(20);
/// The pause after all networks failed: doubled from the one to the other, each time with chance in it,
/// so that not all nodes come back at once after a power cut.
const FIRST_PAUSE_MS: u64 = 1_000;
const LONGEST_PAUSE_MS: u64 = 60_000;

/// Stays joined for ever.
#[embassy_executor::task]
pub(crate) async fn stay_joined(mut radio: WifiController<'static>, networks: Vec<Wifi>) {
    if networks.is_empty() {
        println!("wifi: the config names no network");
    }
    let mut pause_ms = FIRST_PAUSE_MS;
    loop {
        for network in &networks {
            // The one that is lost is tried again first.
            while join(&mut radio, network).await {
                pause_ms = FIRST_PAUSE_MS;
                println!("wifi: joined {:?}", network.ssid);
                match radio.wait_for_disconnect_async().await {
                    Ok(lost) => println!("wifi: lost {:?}: {:?}", network.ssid, lost.reason),
                    Err(why) => println!("wifi: lost {:?}: {why}", network.ssid),
                }
            }
        }
        let half = pause_ms / 2;
        Timer::after_millis(half + u64::from(Rng::new().random()) % (half + 1)).await;
        pause_ms = (pause_ms * 2).min(LONGEST_PAUSE_MS);
    }
}

/// Whether it worked; says why not.
async fn join(radio: &mut WifiController<'static>, network: &Wifi) -> bool {
    let configured = settings(network).and_then(|settings| radio.set_config(&settings));
    if let Err(why) = configured {
        println!("wifi: {:?} cannot be used: {why}", network.ssid);
        return false;
    }
    match with_timeout(JOIN, radio.connect_async()).await {
        Ok(Ok(_)) => return true,
        Ok(Err(ConnectionError::Failed(info))) => {
            println!("wifi: {:?} refuses: {:?}", network.ssid, info.reason);
        }
        Ok(Err(why)) => println!("wifi: {:?}: {why}", network.ssid),
        Err(_) => {
            println!("wifi: {:?} does not answer", network.ssid);
            // An attempt under way would stand in the way of the next one.
            let _ = with_timeout(JOIN, radio.disconnect_async()).await;
        }
    }
    false
}

/// The least that is accepted is WPA2; an access point with WPA3 is joined with WPA3 (SAE, and protected
/// management frames where it has them).
fn settings(network: &Wifi) -> Result<Config, WifiError> {
    let authentication = if network.password.is_empty() {
        AuthenticationMethodConfig::Open
    } else {
        AuthenticationMethodConfig::Wpa2Personal(network.password.as_str().try_into()?)
    };
    let station = StationConfig::default()
        .with_ssid(network.ssid.as_str().try_into()?)
        .with_authentication(authentication);
    Ok(Config::Station(station))
}

/// Runs the network stack for ever.
#[embassy_executor::task]
pub(crate) async fn run_stack(mut runner: Runner<'static, Interface>) {
    runner.run().await;
}
