using FramePin.Conformance;
using FramePin.Conformance.Scripts;
using FramePin.Core.Abi;
using FramePin.Core.Faults;
using FramePin.Core.Kernel;
using Xunit;

namespace FramePin.Tests.Conformance.SelfTests;

/// <summary>
/// The kernel's self tests of Semantics 7, re-expressed as steps: each case runs on FramePin, and all of them run on
/// the kernel that runs the tests, which shows that the cases expect what a kernel does.
/// </summary>
public sealed class SelfTestTests(ITestOutputHelper output)
{
    private static readonly Dictionary<string, Action<Bench>> Cases =
        MsealCases.All.Concat(MremapCases.All).Concat(MergeCases.All).Concat(GuardCases.All).Concat(LockAndMapCases.All)
            .ToDictionary(entry => entry.Name, entry => entry.Run);

    public static TheoryData<string> Names => [.. Cases.Keys];

    /// <summary>A process as execve leaves it, with what a capable host has.</summary>
    private static readonly InitialProcess Process = new(
        [
            new(0x400000, 0x401000, "r-xp", 0, "exe"), new(0x7ffff7ff7000, 0x7ffff7ffb000, "r--p", 0, "[vvar]"),
            new(0x7ffff7ffb000, 0x7ffff7ffd000, "r--p", 0, "[vvar_vclock]"), new(
                0x7ffff7ffd000, 0x7ffff7fff000, "r-xp", 0, "[vdso]"),
            new(0x7ffffffdb000, 0x7ffffffff000, "rw-p", 0, "[stack]"),
        ],
        MmapBase: 0x7ffff7fff000, StartBrk: 0x401000, HugePages: 8, ThpMode.MAdvise, UsesZeroPage: true,
        IsPrivileged: true, MissingFiles: []);

    [Theory]
    [MemberData(nameof(Names))]
    public void On_FramePin(string name)
    {
        using var system = new FramePinSystem(KernelProfile.Recorded, Process);
        Cases[name](new Bench(system, name));
        Assert.Empty(system.Audit());
    }

    [Fact]
    public void On_the_running_kernel()
    {
        var failures = new List<string>();
        var skipped = new List<string>();
        Runner.OnKernel((make, profile) =>
        {
            foreach (var (name, run) in Cases)
            {
                using var system = make();
                if (WhyNot(name, system.Initial, profile) is { } reason)
                {
                    skipped.Add($"{name}: {reason}");
                    continue;
                }

                try
                {
                    run(new Bench(system, name));
                }
                catch (InvalidOperationException failure)
                {
                    failures.Add(failure.Message);
                }
            }
        });
        foreach (var line in skipped) output.WriteLine($"not run on this kernel: {line}");
        output.WriteLine($"{Cases.Count - skipped.Count} of {Cases.Count} cases on this kernel");
        Assert.True(failures.Count == 0, string.Join("\n", failures));
    }

    /// <summary>Why a case cannot run on the running kernel; null when it can.</summary>
    private static string? WhyNot(string name, InitialProcess process, KernelProfile profile)
    {
        if (name.StartsWith("mseal", StringComparison.Ordinal) && !profile.HasMseal) return "no mseal";
        if (name.StartsWith("guard", StringComparison.Ordinal) && !profile.HasGuardRegions) return "no guard regions";
        if (name.StartsWith("droppable", StringComparison.Ordinal) && !profile.HasDroppable) return "no MAP_DROPPABLE";
        if (name.StartsWith("mdwe", StringComparison.Ordinal) && !profile.HasMdwe) return "no PR_SET_MDWE";
        if (name.Contains("multiple", StringComparison.Ordinal) && !profile.MovesSeveralAreas)
            return "moves one area at a time";
        if (name.Contains("secret", StringComparison.Ordinal) && process.MissingFiles.Contains(5))
            return "no secret memory";
        if (name.Contains("hugetlb", StringComparison.Ordinal) && process.MissingFiles.Contains(6))
            return "no huge pages to be had";
        return name.Contains("zero_address", StringComparison.Ordinal) && !process.IsPrivileged ? "not root" : null;
    }
}
