(define (problem p02) (:domain painter)
  (:objects hall kitchen bath - room white blue - colour)
  (:init
    (door hall kitchen) (door kitchen hall)
    (door kitchen bath) (door bath kitchen)
    (pot white bath) (pot blue bath) (sink kitchen)
    (in hall) (clean)
    (wall hall white) (wall kitchen white) (bare bath))
  (:goal (and (wall hall blue) (wall kitchen white))))
