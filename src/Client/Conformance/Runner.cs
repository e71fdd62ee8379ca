using FramePin.Conformance.Kernel;
using FramePin.Conformance.Matrix;
using FramePin.Conformance.Scripts;
using FramePin.Core.Abi;
using FramePin.Core.Addressing;

namespace FramePin.Conformance;

/// <summary>What a run compares.</summary>
public sealed record RunOptions
{
    public int Seed { get; init; } = 1;

    /// <summary>Steps over all scripts.</summary>
    public long Steps { get; init; } = 20_000;

    /// <summary>Steps of one script, on a fresh process.</summary>
    public int StepsPerScript { get; init; } = 150;

    /// <summary>Compares as this user instead of as the one who runs it, which takes root; null to stay.</summary>
    public int? AsUser { get; init; }

    /// <summary>Borrows swap from the host, which takes root and a zram device.</summary>
    public bool WithSwap { get; init; }

    /// <summary>What every script is about; null leaves that to its seed.</summary>
    public ScriptFocus? Focus { get; init; }

    /// <summary>Replays the log of each script on a new machine, which must end in the same state.</summary>
    public bool ReplaysLogs { get; init; }

    /// <summary>Divergences after which the run ends.</summary>
    public int MaxDivergences { get; init; } = 1;

    /// <summary>Ends the run between two steps.</summary>
    public CancellationToken Cancelled { get; init; }
}

/// <summary>Compares random scripts on the running kernel and on FramePin.</summary>
public static class Runner
{
    private const int MostRecordings = 5;

    /// <summary>Runs on a thread of its own, since tracing belongs to one thread.</summary>
    public static ConformanceReport Run(RunOptions options, Action<ConformanceReport>? progress = null)
    {
        return OnOwnThread(host => RunScripts(host, options, progress), options.AsUser, options.WithSwap);
    }

    /// <summary>Runs one script, telling each step and its answer; the first divergence, or null.</summary>
    public static Divergence? Replay(IReadOnlyList<Step> steps, Action<string> tell, bool withSwap = false) =>
        OnOwnThread(host =>
    {
        using var comparison = new Comparison(host, host.Profile);
        foreach (var step in steps)
        {
            var divergence = comparison.Run(step);
            tell($"{step}  -> {comparison.LastAnswer}");
            if (divergence is not null) return divergence;
        }

        tell(comparison.FramePin.Look(withFlags: true, keepsNames: true));
        return null;
    }, withSwap: withSwap);

    /// <summary>
    /// Runs a script on the kernel alone and keeps what it answered twice in a row: khugepaged, or whatever else is
    /// about, may have had a hand in one answer. Throws <see cref="IOException"/> when no two runs are alike.
    /// </summary>
    public static Regression Record(IReadOnlyList<Step> steps, bool withSwap = false) => OnOwnThread(host =>
    {
        var before = RecordOnce(host, steps);
        for (var attempt = 0; attempt < MostRecordings; attempt++)
        {
            var after = RecordOnce(host, steps);
            if (after.Format() == before.Format()) return after;
            before = after;
        }

        throw new IOException("the kernel answers these steps differently each time: nothing was kept");
    }, withSwap: withSwap);

    private static Regression RecordOnce(KernelHost host, IReadOnlyList<Step> steps)
    {
        using var kernel = new KernelSystem(host);
        var answered = steps.Select(step => (step, kernel.Run(step))).ToList();
        return new Regression(
            host.Profile.Name, kernel.Initial, answered, kernel.Look(withFlags: true, keepsNames: false));
    }

    /// <summary>The access matrix of the running kernel, and FramePin's under the same conditions.</summary>
    public static (IReadOnlyList<string> Kernel, IReadOnlyList<string> FramePin) MeasureMatrix() => OnOwnThread(host =>
    {
        InitialProcess initial;
        using (var probe = new KernelSystem(host)) initial = probe.Initial;
        var kernel = AccessMatrix.Table(() => new KernelSystem(host)).ToList();
        return ((IReadOnlyList<string>)kernel,
            AccessMatrix.Table(() => new FramePinSystem(host.Profile, initial)).ToList());
    });

    /// <summary>
    /// Runs <paramref name="work"/> with a maker of fresh processes on the running kernel, and the profile that is
    /// nearest to it.
    /// </summary>
    public static void OnKernel(Action<Func<IMemorySystem>, KernelProfile> work) => OnOwnThread(host =>
    {
        work(() => new KernelSystem(host), host.Profile);
        return true;
    });

    private static T OnOwnThread<T>(Func<KernelHost, T> work, int? asUser = null, bool withSwap = false)
    {
        // The caller's thread gives back what it took; the other one may be another user by then.
        using var lent = new LentHost(withSwap, asUser);
        var result = default(T);
        Exception? failure = null;
        var thread = new Thread(() =>
        {
            try
            {
                if (asUser is { } user) Native.LibC.BecomeUser(user);
                using var host = new KernelHost(lent);
                result = work(host);
            }
            catch (Exception exception)
            {
                failure = exception;
            }
        });
        thread.Start();
        thread.Join();
        if (failure is not null) System.Runtime.ExceptionServices.ExceptionDispatchInfo.Throw(failure);
        return result!;
    }

    private static ConformanceReport RunScripts(
        KernelHost host, RunOptions options, Action<ConformanceReport>? progress)
    {
        var report = new ConformanceReport
        {
            Kernel = host.Release,
            Profile = host.Profile.Name,
            Seed = options.Seed,
            IsPrivileged = host.IsRoot,
            WithSwap = host.Swap > 0,
            NotModelled = host.NotModelled,
        };
        for (var script = 0; report.Steps < options.Steps && !options.Cancelled.IsCancellationRequested
            && report.Divergences.Count < options.MaxDivergences; script++)
        {
            var seed = unchecked(options.Seed + script);
            if (RunScript(host, options, seed, report) is { } divergence)
            {
                var deviation = Deviations.Find(divergence);
                if (deviation is not null) report.Count(deviation);
                // An answer that the kernel does not give twice came from something else on the machine. The report
                // names it.
                else if (Shrinker.Replay(host, host.Profile, divergence.Steps) is null)
                    report.Unrepeated.Add((seed, divergence));
                else report.Divergences.Add((seed, Shrinker.Shrink(host, host.Profile, divergence)));
            }

            report.Scripts++;
            progress?.Invoke(report);
        }

        return report;
    }

    private static Divergence? RunScript(KernelHost host, RunOptions options, int seed, ConformanceReport report)
    {
        using var comparison = new Comparison(host, host.Profile, options.ReplaysLogs);
        report.MissingFiles = [.. comparison.Initial.MissingFiles.Select(file => FileSpec.All[file].Name)];
        var generator = new Generator(seed, comparison.Initial, options.Focus);
        for (var i = 0; i < options.StepsPerScript && report.Steps < options.Steps
            && !options.Cancelled.IsCancellationRequested; i++)
        {
            var step = generator.Next(comparison.FramePin.Areas);
            report.Steps++;
            if (comparison.Run(step) is { } divergence) return divergence;
            report.Count(step.Kind, comparison.LastAnswer);
        }

        var findings = comparison.FramePin.Audit();
        if (findings.Count > 0)
            throw new InvalidOperationException($"seed {seed}: {FirstFinding(host.Profile, comparison)}");
        if (options.ReplaysLogs && !comparison.FramePin.ReplaysAlike())
            throw new InvalidOperationException($"seed {seed}: the replay of the log ends in another state");
        return null;
    }

    /// <summary>
    /// Runs a script on FramePin again, with an audit after each step: the steps up to the first that breaks the books.
    /// </summary>
    private static string FirstFinding(KernelProfile profile, Comparison comparison)
    {
        using var system = new FramePinSystem(profile, comparison.Initial);
        for (var i = 0; i < comparison.Steps.Count; i++)
        {
            system.Run(comparison.Steps[i]);
            var findings = system.Audit();
            if (findings.Count > 0)
                return $"audit: {string.Join("; ", findings)} after\n{string.Join('\n', comparison.Steps.Take(i + 1))}";
        }

        return "audit: findings at the end, and none when run again";
    }
}
