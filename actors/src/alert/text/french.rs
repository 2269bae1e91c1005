//! French.

use super::{Label, Phrase, Tongue};
use crate::score::incident::{Kind, NoticeKind};
use crate::score::rules::{Feature, Rule, Severity};

pub(super) struct French;

impl Tongue for French {
    fn decimal_point(&self) -> char {
        ','
    }

    fn quantity<'a>(&self, name: &'a str) -> &'a str {
        match name {
            "temperature" => "température",
            "humidity" => "humidité",
            "value" => "valeur",
            own => own,
        }
    }

    fn days(&self, days: u64) -> String {
        format!("{days} jours")
    }

    fn label(&self, label: Label) -> &'static str {
        match label {
            Label::What => "Constat",
            Label::Rule => "Règle",
            Label::Also => "Aussi",
            Label::Since => "Depuis",
            Label::Severity => "Gravité",
            Label::Worst => "Au pire",
            Label::Sensors => "Capteurs",
            Label::Unheard => "Encore muets",
            Label::SoFar => "À ce jour",
            Label::Restarted => "Redémarré",
            Label::Firmware => "Micrologiciel",
            Label::Acknowledged => "Pris en charge",
            Label::OverAt => "Terminé à",
            Label::Incident => "Incident",
            Label::Budget => "Courriels",
        }
    }

    fn phrase(&self, phrase: Phrase) -> &'static str {
        match phrase {
            Phrase::Acknowledge => "Je m'en occupe",
            Phrase::FalseAlarm => "Fausse alerte",
            Phrase::Silence => "Silence pour un jour",
            Phrase::OrType => "Pour répondre, tapez :",
            Phrase::DigestNote => {
                "Beaucoup d'avis à la fois, ou les courriels du jour se font rares : ils arrivent \
                 ensemble. Chaque incident figure une fois, dans son dernier état."
            }
        }
    }

    fn severity(&self, severity: Severity) -> &'static str {
        match severity {
            Severity::Warn => "avertissement",
            Severity::Critical => "critique",
        }
    }

    fn rule(&self, rule: Rule) -> &'static str {
        match rule {
            Rule::Range => "valeur impossible",
            Rule::Silence => "silence",
            Rule::Stuck => "valeur figée",
            Rule::Rate => "saut",
            Rule::Noise => "agitation",
            Rule::Season => "heure du jour",
            Rule::Level => "niveau",
            Rule::Z => "écart",
            Rule::Forest => "ensemble",
            Rule::Novelty => "jamais vu",
        }
    }

    fn meaning(&self, rule: Rule) -> &'static str {
        match rule {
            Rule::Range => "hors du possible, ou code d'erreur connu du capteur",
            Rule::Silence => "le capteur n'envoie plus rien",
            Rule::Stuck => {
                "toujours la même valeur, plus longtemps que jamais cette semaine ou jusqu'à un saut"
            }
            Rule::Rate => "un saut d'une mesure à l'autre, plus grand que ses sauts habituels",
            Rule::Noise => "plus agité qu'il ne l'a été cette semaine",
            Rule::Season => "différent des jours précédents à cette heure",
            Rule::Level => "les deux dernières heures s'écartent de la dernière semaine",
            Rule::Z => "loin du niveau habituel du capteur",
            Rule::Forest => "différent des mesures de son groupe, toutes grandeurs confondues",
            Rule::Novelty => {
                "aucun jour de la dernière semaine n'était à ce niveau vers cette heure"
            }
        }
    }

    fn silence(&self, gap: &str, every: &str, line: &str) -> String {
        format!("aucune mesure depuis {gap}, une attendue toutes les {every} (seuil {line})")
    }

    fn link(&self, down: &str) -> String {
        format!("pas de connexion au courtier MQTT depuis {down} : aucun capteur n'est entendu")
    }

    fn impossible(&self, name: &str, value: &str, last_good: Option<&str>) -> String {
        match last_good {
            None => format!("{name} {value} : impossible"),
            Some(last) => format!("{name} {value} : impossible (dernière bonne valeur : {last})"),
        }
    }

    fn stuck(&self, name: &str, value: &str, readings: &str, line: &str) -> String {
        format!("{name} : {value} pendant {readings} mesures de suite (seuil {line})")
    }

    fn noise(&self, name: &str, by: &str, usually: &str, line: &str) -> String {
        format!("{name} agitée de {by}, d'habitude de moins de {usually} (seuil {line})")
    }

    fn off(&self, name: &str, value: &str, expected: &str, line: &str, ratio: &str) -> String {
        format!("{name} {value}, attendu {expected} (seuil {line}, {ratio} × son écart)")
    }

    fn jumped_back(&self, name: &str, value: &str, expected: &str, ratio: &str) -> String {
        format!(
            "{name} était à {value}, attendu {expected}, et est revenue d'un saut \
             (de {ratio} × le seuil des sauts)"
        )
    }

    fn jumped_away(&self, name: &str, value: &str, expected: &str, ratio: &str) -> String {
        format!(
            "{name} a sauté à {value} avec d'autres grandeurs, attendu {expected} \
             (de {ratio} × le seuil des sauts)"
        )
    }

    fn forest(&self, above_all: Option<&str>, score: &str, usual: &str, line: &str) -> String {
        let above_all = above_all.map(|name| format!(", surtout {name}"));
        format!(
            "les grandeurs ne vont pas ensemble{} : score {score}, d'habitude {usual} (seuil {line})",
            above_all.unwrap_or_default()
        )
    }

    fn evidence(&self, feature: Feature, name: &str, [value, low, high]: [&str; 3]) -> String {
        let usually = format!("(d'habitude {low} à {high})");
        match feature {
            Feature::Distance => format!("{name} à {value} écarts de son niveau {usually}"),
            Feature::Deviation => format!("{name} à {value} écarts de son cours {usually}"),
            Feature::Step => format!("{name} : saut de {value} écarts {usually}"),
            Feature::Noise => format!("{name} {value} × plus agitée que d'habitude {usually}"),
        }
    }

    fn anomalies(&self, count: u32) -> String {
        match count {
            1 => "1 anomalie".to_owned(),
            count => format!("{count} anomalies"),
        }
    }

    fn more(&self, count: usize) -> String {
        format!("et {count} autres")
    }

    fn several(&self, kind: Kind, size: u32, group: Option<&str>) -> String {
        let group = group
            .map(|group| format!(" de {group}"))
            .unwrap_or_default();
        match kind {
            Kind::Silence => format!("{size} capteurs{group} sont muets"),
            _ => format!("{size} capteurs{group} ont changé ensemble"),
        }
    }

    fn several_sensors(&self) -> &'static str {
        "plusieurs capteurs"
    }

    fn broker(&self) -> &'static str {
        "pas de connexion au courtier"
    }

    fn headline(&self, kind: NoticeKind, about: &str) -> String {
        let what = match kind {
            NoticeKind::Opened => "Quelque chose ne va pas",
            NoticeKind::Escalated => "C'est devenu critique",
            NoticeKind::Grown => "D'autres capteurs sont touchés",
            NoticeKind::Reopened => "Cela recommence",
            NoticeKind::Reminder => "Cela dure",
            NoticeKind::Resolved => "C'est terminé",
        };
        format!("{what} : {about}")
    }

    fn by(&self, person: &str, at: &str) -> String {
        format!("par {person}, {at}")
    }

    fn of_budget(&self, used: u32, budget: u32) -> String {
        format!("{used} sur {budget} ces dernières 24 heures, un par destinataire")
    }

    fn digest_subject(&self, incidents: usize) -> String {
        match incidents {
            1 => "[Vigie] 1 incident".to_owned(),
            count => format!("[Vigie] {count} incidents"),
        }
    }

    fn digest_headline(&self, incidents: usize, notices: usize) -> String {
        format!("{notices} avis sur {incidents} incidents")
    }

    fn changed(&self, firmware: &str, at: &str, from: &str) -> String {
        format!("{firmware} depuis le {at}, avant : {from}")
    }

    fn extent(&self, low: &str, high: &str, hours: &str) -> String {
        format!("de {low} à {high} en {hours}")
    }
}
