(define (problem p05) (:domain painter)
  (:objects hall kitchen bath - room white blue - colour)
  (:init
    (door hall kitchen) (door kitchen hall)
    (door kitchen bath) (door bath kitchen)
    (pot white bath) (pot blue kitchen) (sink kitchen)
    (in kitchen) (clean)
    (wall hall white) (wall kitchen white) (bare bath))
  (:goal (and (wall hall blue) (wall bath blue))))
