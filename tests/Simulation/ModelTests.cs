extern alias mutants;

using System.Globalization;
using Xunit;
using Mutant = mutants::FramePin.Core.Kernel.Mutant;
using MutantSimulator = mutants::FramePin.Tests.Simulation.Simulator;

namespace FramePin.Tests.Simulation;

/// <summary>The machine against a naive model, from a printed seed, audited after each operation.</summary>
public sealed class ModelTests
{
    private const int Operations = 100_000;
    private const int PerMachine = 2_500;

    internal static int Seed =>
        Environment.GetEnvironmentVariable("FRAMEPIN_SEED") is { Length: > 0 } given
            ? int.Parse(given, CultureInfo.InvariantCulture)
            : (int)(DateTime.UtcNow.Ticks & 0x3fffffff);

    [Fact]
    public void A_hundred_thousand_operations_agree_with_the_model()
    {
        var seed = Seed;
        var output = TestContext.Current.TestOutputHelper;
        output?.WriteLine($"seed {seed}: set FRAMEPIN_SEED to repeat");
        var outcomes = new SortedDictionary<string, int>(StringComparer.Ordinal);
        for (var machine = 0; machine < Operations / PerMachine; machine++)
        {
            using var simulator = new Simulator(seed + machine);
            for (var i = 0; i < PerMachine; i++)
            {
                var difference = simulator.Step();
                Assert.True(difference is null, $"seed {seed}, machine {machine}, operation {i}: {difference}");
            }

            foreach (var (key, count) in simulator.Outcomes) outcomes[key] = outcomes.GetValueOrDefault(key) + count;
        }

        foreach (var (key, count) in outcomes) output?.WriteLine($"{count,7}  {key}");
        var succeeded = outcomes.Where(pair => pair.Key.EndsWith(" ok", StringComparison.Ordinal)
            || pair.Key.EndsWith(" partial", StringComparison.Ordinal))
            .Sum(pair => pair.Value);
        output?.WriteLine($"{succeeded * 100.0 / Operations:F1} % succeeded");
        Assert.True(succeeded >= Operations * 6 / 10, $"only {succeeded} of {Operations} succeeded");
        Assert.All(outcomes, pair => Assert.True(pair.Value >= 100, $"{pair.Key} was hit only {pair.Value} times"));
    }

    [Theory]
    [InlineData((int)Mutant.ForkSharesPinned)]
    [InlineData((int)Mutant.DontNeedKeeps)]
    [InlineData((int)Mutant.ProtectKeepsWrite)]
    [InlineData((int)Mutant.TruncateKeepsMapped)]
    [InlineData((int)Mutant.WriteSkipsCopy)]
    public void A_planted_bug_is_found(int mutant)
    {
        var seed = Seed;
        for (var machine = 0; machine < Operations / PerMachine; machine++)
        {
            using var simulator = new MutantSimulator(
                seed + machine, prepare: made => made.Context.Planted = (Mutant)mutant);
            for (var i = 0; i < PerMachine; i++)
            {
                if (simulator.Step() is not { } difference) continue;
                TestContext.Current.TestOutputHelper?.WriteLine(
                    $"{(Mutant)mutant}: found after {(machine * PerMachine) + i} operations: {difference}");
                return;
            }
        }

        Assert.Fail($"seed {seed}: {(Mutant)mutant} was not found in {Operations} operations");
    }
}
