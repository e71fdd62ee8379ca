using FramePin.Conformance.Kernel;
using FramePin.Conformance.Scripts;
using FramePin.Core.Abi;

namespace FramePin.Conformance;

/// <summary>Runs one script on the kernel and on FramePin side by side and looks after each step.</summary>
public sealed class Comparison : IDisposable
{
    private readonly KernelSystem _kernel;
    private readonly FramePinSystem _framePin;
    private readonly List<Step> _steps = [];
    private string _before = "";

    /// <param name="host">The running kernel.</param>
    /// <param name="profile">The profile that is nearest to it.</param>
    /// <param name="keepsLog">Keeps FramePin's log for a replay.</param>
    public Comparison(KernelHost host, KernelProfile profile, bool keepsLog = false)
    {
        _kernel = new KernelSystem(host);
        _framePin = new FramePinSystem(profile, _kernel.Initial, keepsLog);
    }

    public InitialProcess Initial => _kernel.Initial;

    /// <summary>The steps run so far.</summary>
    public IReadOnlyList<Step> Steps => _steps;

    public FramePinSystem FramePin => _framePin;

    /// <summary>What FramePin answered to the last step.</summary>
    public string LastAnswer { get; private set; } = "";

    /// <summary>Runs one step on both; null when they agree.</summary>
    public Divergence? Run(Step step)
    {
        _steps.Add(step);
        var kernelAnswer = _kernel.Run(step);
        var ourAnswer = _framePin.Run(step);
        // A page that was freed and allocated within one call may be any page.
        var keepsNames = !FreesAndAllocates(step);
        var withFlags = step.Kind is not (StepKind.Load or StepKind.Store);
        var kernelLook = _kernel.Look(withFlags, keepsNames);
        var ourLook = _framePin.Look(withFlags, keepsNames);
        LastAnswer = ourAnswer;
        if (kernelAnswer == ourAnswer && kernelLook == ourLook)
        {
            _before = ourLook;
            return null;
        }

        return new Divergence([.. _steps], kernelAnswer, ourAnswer, kernelLook, ourLook, _before);
    }

    /// <summary>
    /// Calls that may free pages and take others: those that unmap and map, and those that populate, which copy shared
    /// pages one by one.
    /// </summary>
    private static bool FreesAndAllocates(Step step) => step.Kind switch
    {
        StepKind.Mmap or StepKind.Exit or StepKind.Mremap or StepKind.Brk or StepKind.Mlock or StepKind.MlockAll =>
            true,
        StepKind.Madvise => (Advice)step.C is Advice.PopulateRead or Advice.PopulateWrite,
        _ => false,
    };

    public void Dispose()
    {
        _kernel.Dispose();
        _framePin.Dispose();
    }
}
