; A painter walks from room to room, dips a clean brush into pots of paint, and paints bare walls.
(define (domain painter)
  (:requirements :strips :typing)
  (:types room colour)
  (:predicates
    (door ?from ?to - room)
    (pot ?c - colour ?r - room)
    (sink ?r - room)
    (in ?r - room)
    (clean)
    (brush ?c - colour)
    (bare ?r - room)
    (wall ?r - room ?c - colour))
  (:action walk
    :parameters (?from ?to - room)
    :precondition (and (in ?from) (door ?from ?to))
    :effect (and (in ?to) (not (in ?from))))
  (:action dip
    :parameters (?c - colour ?r - room)
    :precondition (and (in ?r) (pot ?c ?r) (clean))
    :effect (and (brush ?c) (not (clean))))
  (:action wash
    :parameters (?c - colour ?r - room)
    :precondition (and (in ?r) (sink ?r) (brush ?c))
    :effect (and (clean) (not (brush ?c))))
  (:action paint
    :parameters (?r - room ?c - colour)
    :precondition (and (in ?r) (brush ?c) (bare ?r))
    :effect (and (wall ?r ?c) (not (bare ?r))))
  (:action scrape
    :parameters (?r - room ?c - colour)
    :precondition (and (in ?r) (wall ?r ?c))
    :effect (and (bare ?r) (not (wall ?r ?c)))))
