namespace FramePin.Conformance.Scripts;

/// <summary>
/// A system that runs scripts: the kernel or FramePin. Answers and snapshots are text, the same for the same outcome.
/// </summary>
public interface IMemorySystem : IDisposable
{
    /// <summary>The process as a script finds it.</summary>
    InitialProcess Initial { get; }

    /// <summary>Runs one step. The answer is the return value or the errno, and what the call delivered.</summary>
    string Run(Step step);

    /// <summary>
    /// The memory of every process: areas with their flags, present pages, which of them share a frame, first bytes.
    /// </summary>
    /// <param name="withFlags">Area flags too (slow on the kernel's side).</param>
    /// <param name="keepsNames">Frames keep the numbers that they had in the last snapshot.</param>
    string Look(bool withFlags, bool keepsNames);
}
